// Runs the CPU's inversion loop of every variant over awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include <cstdio>
#include <cstring>
#include <vector>

#include "invert/invert_worker.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumSamples = 70;  // more than the places of any variant
constexpr int32_t kMaxSteps = 6;

struct Case {
  LayerShape input;
  std::vector<int64_t> program;
};

const std::vector<Case> kCases = {
    {{1, 1, 1}, {6}},
    {{1, 1, 1}, {6, 0, 1, 1}},
    {{3, 9, 13}, {6, 0, 351, 10}},
    {{1, 5, 7}, {6, 0, 35, 1, 3, 0, 1, 3}},
    {{1, 8, 8}, {3, 6, 2, 64, 0, 64, 17, 3, 2, 17, 0, 17, 13, 0, 13, 7, 3}},
    {{1, 9, 13}, {1, 1, 5, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 120, 4}},
    {{2, 8, 9}, {1, 2, 6, 3, 3, 1, 1, 0, 0, 4, 3, 3, 2, 2, 1, 1, 3, 6, 0, 72, 3}},
    {{3, 11, 8}, {2, 3, 1, 3, 7, 5, 5, 2, 2, 2, 2, 3, 2, 7, 1, 7, 4, 3, 3, 1, 1, 1, 1, 5, 3, 2, 3, 2, 6, 0, 16, 3}},
    {{1, 7, 5}, {1, 1, 3, 5, 3, 2, 1, 1, 0, 1, 3, 9, 1, 1, 3, 2, 4, 3, 6, 0, 180, 2}},
    {{1, 7, 5}, {1, 1, 8, 3, 3, 1, 1, 1, 1, 3, 1, 8, 9, 3, 3, 1, 1, 1, 1, 3, 6, 0, 315, 3}},
    {{1, 6, 7}, {1, 1, 9, 3, 3, 1, 1, 2, 2, 3, 1, 9, 8, 3, 3, 1, 1, 0, 0, 4, 2, 2, 2, 2, 0, 0, 3, 6, 0, 72, 3}},
    {{1, 6, 6}, {4, 3, 3, 1, 1, 1, 1, 5, 6, 6, 1, 1, 1, 1, 17, 1, 1, 1, 1, 0, 0, 6}},
    {{3, 12, 12}, {1, 3, 8, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0,   0,  1, 8, 16, 3,
                   3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 144, 19, 3, 0, 19, 10}},
};

struct Result {
  std::vector<float> x, confidence, loss;
  std::vector<int32_t> steps;

  bool operator==(const Result& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    return same(x, other.x) && same(confidence, other.confidence) && same(loss, other.loss) && steps == other.steps;
  }
};

int64_t take_next(void* queue) {
  int64_t& next = *static_cast<int64_t*>(queue);
  return next < kNumSamples ? next++ : -1;
}

AscentConstants options_of(Optimizer optimizer) {
  return {optimizer, 0.05, 0.9, 0.999, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 0.02f, 0.002f, 0.0f, 1.0f, 0.6, 2};
}

// Exactly sized heap arrays, so that one element too far is seen.
Result run(Simd simd, const Program& program, Optimizer optimizer, float scale) {
  uint32_t state = 1;
  const auto random = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24); };
  std::vector<float> parameters;
  for (int64_t i = 0; i < program.num_parameters; ++i) parameters.push_back(scale * (random() - 0.5f));
  const int64_t num_values = program.input.size();
  Result result;
  for (int64_t i = 0; i < kNumSamples * num_values; ++i) result.x.push_back(random());
  result.confidence.assign(kNumSamples, 0.0f);
  result.loss.assign(kNumSamples, 0.0f);
  result.steps.assign(kNumSamples, 0);
  const std::vector<int32_t> model(kNumSamples, 0);
  std::vector<int32_t> label, restart;
  for (int64_t n = 0; n < kNumSamples; ++n) {
    label.push_back(static_cast<int32_t>(n % program.num_classes()));
    restart.push_back(static_cast<int32_t>(kMaxRestarts - 1 - n));
  }
  const InvertTask task{&program,
                        parameters.data(),
                        result.x.data(),
                        model.data(),
                        label.data(),
                        restart.data(),
                        result.confidence.data(),
                        result.loss.data(),
                        result.steps.data(),
                        1,
                        kNumSamples,
                        ~uint64_t{0},
                        3,
                        kMaxSteps,
                        options_of(optimizer),
                        Arithmetic::kFma};

  const InvertVariant& variant = invert_variant(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, Passes::kInputGradient, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(plan.num_weights);
  pack_weights(plan, parameters.data(), weights.data());
  std::vector<float> shared(plan.shared_floats), group(plan.group_floats), states(3 * plan.num_slots() * num_values),
      gradient(plan.lanes * num_values), line(2 * plan.lanes * program.input.width);
  std::vector<uint8_t> codes(kMaxGroups * plan.code_bytes);
  std::vector<InvertSlot> slots(plan.num_slots());
  int64_t next = 0;
  InvertWorker worker{};
  worker.task = &task;
  worker.plan = &view;
  worker.weights = weights.data();
  worker.next = take_next;
  worker.queue = &next;
  worker.shared = shared.data();
  worker.group = group.data();
  worker.codes = codes.data();
  worker.code_bytes = plan.code_bytes;
  worker.slots = slots.data();
  worker.num_slots = plan.num_slots();
  worker.states = states.data();
  worker.gradient = gradient.data();
  worker.line = line.data();
  variant.run(worker);
  return result;
}

}  // namespace

int main() {
  int num_runs = 0;
  for (size_t i = 0; i < kCases.size(); ++i) {
    const Program program = parse_program(kCases[i].program.data(), kCases[i].program.size(), kCases[i].input);
    for (const Optimizer optimizer : {Optimizer::kAdam, Optimizer::kMomentum}) {
      for (const float scale : {1.0f, 1e30f}) {
        std::vector<Result> of_fused;
        for (const Simd simd : kAllSimd) {
          if (!simd_supported(simd)) continue;
          Result result = run(simd, program, optimizer, scale);
          ++num_runs;
          if (simd != Simd::kScalar) of_fused.push_back(std::move(result));
        }
        if (of_fused.size() == 2 && !(of_fused[0] == of_fused[1])) {
          return std::printf("case %zu: avx2 and avx512 differ\n", i), 1;
        }
      }
    }
  }
  std::printf("%d runs\n", num_runs);
}
