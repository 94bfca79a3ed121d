// Runs the statistics loop of every variant over awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "statistics/shadow_statistics_worker.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumModels = 2, kNumSamples = 150;  // more than two slices of any variant, the last not full

struct Case {
  LayerShape input;
  std::vector<int64_t> program;
};

const std::vector<Case> kCases = {
    {{1, 1, 1}, {6}},
    {{1, 1, 1}, {6, 0, 1, 1}},
    {{3, 9, 13}, {6, 0, 351, 10}},
    {{1, 8, 8}, {3, 6, 2, 64, 0, 64, 17, 3, 2, 17, 0, 17, 13, 0, 13, 7, 3}},
    {{1, 9, 13}, {1, 1, 5, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 120, 4}},
    {{2, 8, 9}, {1, 2, 6, 3, 3, 1, 1, 0, 0, 4, 3, 3, 2, 2, 1, 1, 3, 6, 0, 72, 3}},
    {{1, 7, 5}, {1, 1, 3, 5, 3, 2, 1, 1, 0, 1, 3, 9, 1, 1, 3, 2, 4, 3, 6, 0, 180, 2}},
    {{1, 7, 5}, {1, 1, 8, 3, 3, 1, 1, 1, 1, 3, 1, 8, 9, 3, 3, 1, 1, 1, 1, 3, 6, 0, 315, 3}},
    {{1, 6, 7}, {1, 1, 9, 3, 3, 1, 1, 2, 2, 3, 1, 9, 8, 3, 3, 1, 1, 0, 0, 4, 2, 2, 2, 2, 0, 0, 3, 6, 0, 72, 3}},
    {{1, 6, 6}, {4, 3, 3, 1, 1, 1, 1, 5, 6, 6, 1, 1, 1, 1, 17, 1, 1, 1, 1, 0, 0, 6}},
};

struct Result {
  std::vector<float> margin, loss, confidence, mean, m2, logits;
  std::vector<int32_t> prediction, count;

  bool operator==(const Result& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    return same(margin, other.margin) && same(loss, other.loss) && same(confidence, other.confidence) &&
           same(mean, other.mean) && same(m2, other.m2) && same(logits, other.logits) &&
           prediction == other.prediction && count == other.count;
  }
};

// Exactly sized heap arrays, so that one element too far is seen.
Result run(Simd simd, const Program& program, bool bytes, float scale) {
  uint32_t state = 1;
  const auto random = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24); };
  std::vector<float> parameters, values;
  for (int64_t i = 0; i < kNumModels * program.num_parameters; ++i) parameters.push_back(scale * (random() - 0.5f));
  for (int64_t i = 0; i < kNumSamples * program.input.size(); ++i) values.push_back(random());
  std::vector<uint8_t> pixels;
  for (const float value : values) pixels.push_back(static_cast<uint8_t>(255.0f * value));
  std::vector<int32_t> label;
  for (int64_t n = 0; n < kNumSamples; ++n) label.push_back(static_cast<int32_t>(n % program.num_classes()));
  const auto member = std::make_unique<bool[]>(kNumModels * kNumSamples);
  for (int64_t i = 0; i < kNumModels * kNumSamples; ++i) member[i] = random() < 0.5f;
  Result result;
  for (auto* of_all : {&result.margin, &result.loss, &result.confidence}) of_all->resize(kNumModels * kNumSamples);
  result.prediction.resize(kNumModels * kNumSamples);
  for (auto* moment : {&result.mean, &result.m2}) moment->resize(kNumSides * kNumSamples);
  result.count.resize(kNumSides * kNumSamples);
  result.logits.resize(kNumModels * kNumSamples * program.num_classes());

  const ShadowVariant& variant = shadow_variant(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, Passes::kForward, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(kNumModels * plan.num_weights);
  for (int64_t i = 0; i < kNumModels; ++i) {
    pack_weights(plan, parameters.data() + i * program.num_parameters, weights.data() + i * plan.num_weights);
  }
  const int32_t block = 2 * plan.num_slots();
  std::vector<float> shared((plan.input.all_groups ? 2 : 1) * plan.shared_floats), group(plan.group_floats),
      images(plan.input.all_groups ? 0 : block * program.input.size());
  for (const char output : {'s', 'm', 'l'}) {
    ShadowTask task{};
    task.program = &program;
    task.bytes = bytes ? pixels.data() : nullptr;
    task.values = bytes ? nullptr : values.data();
    task.parameters = parameters.data();
    task.num_models = kNumModels;
    task.num_samples = kNumSamples;
    task.label = output == 'l' ? nullptr : label.data();
    if (output == 'l') {
      task.logits = result.logits.data();
    } else if (output == 'm') {
      task.member = member.get();
      task.moments = {result.count.data(), result.mean.data(), result.m2.data()};
    } else {
      task.statistics = {result.margin.data(), result.loss.data(), result.confidence.data(), result.prediction.data()};
    }
    for (int64_t first = 0; first < kNumSamples; first += block) {
      ShadowWorker worker{};
      worker.task = &task;
      worker.plan = &view;
      worker.weights = weights.data();
      worker.num_weights = plan.num_weights;
      worker.num_models = kNumModels;
      worker.first_sample = first;
      worker.num_samples = static_cast<int32_t>(std::min<int64_t>(block, kNumSamples - first));
      worker.shared = shared.data();
      worker.shared_floats = plan.shared_floats;
      worker.group = group.data();
      worker.images = images.data();
      variant.run(worker);
    }
  }
  return result;
}

}  // namespace

int main() {
  int num_runs = 0;
  for (size_t i = 0; i < kCases.size(); ++i) {
    const Program program = parse_program(kCases[i].program.data(), kCases[i].program.size(), kCases[i].input);
    for (const bool bytes : {true, false}) {
      std::vector<Result> of_fused;
      for (const Simd simd : kAllSimd) {
        if (!simd_supported(simd)) continue;
        Result result = run(simd, program, bytes, bytes ? 1.0f : 1e30f);  // large: logits that are not finite
        ++num_runs;
        if (simd != Simd::kScalar) of_fused.push_back(std::move(result));
      }
      if (of_fused.size() == 2 && !(of_fused[0] == of_fused[1])) {
        return std::printf("case %zu: avx2 and avx512 differ\n", i), 1;
      }
    }
  }
  std::printf("%d runs\n", num_runs);
}
