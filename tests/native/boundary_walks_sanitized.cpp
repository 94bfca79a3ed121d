// Runs the walks of every variant through awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include <cstdio>
#include <cstring>
#include <vector>

#include "boundary/boundary_walks_worker.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumWalks = 83, kNumImages = 7, kNumDirections = 3;  // more walks than the places of any variant
constexpr int32_t kMaxSteps = 6;

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
  std::vector<float> distance;
  std::vector<int32_t> steps, prediction;

  bool operator==(const Result& other) const {
    return std::memcmp(distance.data(), other.distance.data(), distance.size() * sizeof(float)) == 0 &&
           steps == other.steps && prediction == other.prediction;
  }
};

int64_t take_next(void* queue) {
  int64_t& next = *static_cast<int64_t*>(queue);
  return next < kNumWalks ? next++ : -1;
}

// Exactly sized heap arrays, so that one element too far is seen.
Result run(Simd simd, const Program& program, bool blind, float scale) {
  uint32_t state = 1;
  const auto random = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24); };
  const int64_t num_values = program.input.size();
  std::vector<float> parameters, x, directions;
  for (int64_t i = 0; i < program.num_parameters; ++i) parameters.push_back(scale * (random() - 0.5f));
  for (int64_t i = 0; i < kNumImages * num_values; ++i) x.push_back(random());
  for (int64_t i = 0; i < kNumDirections * num_values; ++i) directions.push_back(0.4f * (random() - 0.5f));
  const std::vector<int32_t> model(kNumWalks, 0);
  std::vector<int32_t> image, direction, label, norm;
  for (int64_t n = 0; n < kNumWalks; ++n) {
    image.push_back(static_cast<int32_t>(n % kNumImages));
    direction.push_back(static_cast<int32_t>(n % kNumDirections));
    label.push_back(static_cast<int32_t>(n / 2 % program.num_classes()));
    norm.push_back(static_cast<int32_t>(n / 4 % kNumNorms));
  }
  Result result;
  result.distance.assign(kNumWalks, 0.0f);
  result.steps.assign(kNumWalks, 0);
  result.prediction.assign(kNumWalks, 0);
  BoundaryTask task{};
  task.program = &program;
  task.x = x.data(), task.parameters = parameters.data();
  task.model = model.data(), task.image = image.data(), task.label = label.data(), task.norm = norm.data();
  if (blind) task.directions = directions.data(), task.direction = direction.data();
  task.distance = result.distance.data(), task.steps = result.steps.data();
  task.prediction = result.prediction.data();
  task.num_models = 1, task.num_images = kNumImages, task.num_walks = kNumWalks;
  task.num_directions = blind ? kNumDirections : 0;
  task.max_steps = kMaxSteps;
  for (float& step : task.step) step = 0.1f;
  task.coordinates = 5, task.gap = 0.01f, task.lower = 0.0f, task.upper = 1.0f;

  const WalkVariant& variant = walk_variant(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, blind ? Passes::kForward : Passes::kInputGradient,
                              /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(plan.num_weights);
  pack_weights(plan, parameters.data(), weights.data());
  std::vector<float> shared(plan.shared_floats), group(plan.group_floats), states(2 * plan.num_slots() * num_values);
  std::vector<uint8_t> codes(kMaxGroups * plan.code_bytes);
  std::vector<WalkSlot> slots(plan.num_slots());
  int64_t next = 0;
  WalkWorker worker{};
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
  (blind ? variant.blind_walk : variant.min_gd)(worker);
  return result;
}

}  // namespace

int main() {
  int num_runs = 0;
  for (size_t i = 0; i < kCases.size(); ++i) {
    const Program program = parse_program(kCases[i].program.data(), kCases[i].program.size(), kCases[i].input);
    for (const bool blind : {false, true}) {
      for (const float scale : {1.0f, 1e30f}) {  // large: logits and gradients that are not finite
        std::vector<Result> of_fused;
        for (const Simd simd : kAllSimd) {
          if (!simd_supported(simd)) continue;
          Result result = run(simd, program, blind, scale);
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
