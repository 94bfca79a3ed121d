// Runs the walks of every variant through awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include "sanitized.h"
//
#include "boundary/boundary_walks_scratch.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumWalks = 83, kNumImages = 7, kNumDirections = 3;  // more walks than the slots of any variant
constexpr int32_t kMaxSteps = 6;

struct Result {
  std::vector<float> distance;
  std::vector<int32_t> steps, prediction;

  bool operator==(const Result& other) const {
    return same_bits(distance, other.distance) && same_bits(steps, other.steps) &&
           same_bits(prediction, other.prediction);
  }
};

void run_loop(Simd simd, const BoundaryTask& task) {
  const Program& program = *task.program;
  const Variant<WalkWorker>& variant = VariantTable<WalkWorker>::of(simd);
  const Passes passes = task.is_blind() ? Passes::kForward : Passes::kInputGradient;
  const Plan plan = make_plan(program, variant.lanes, variant.rows, passes, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(plan.num_weights);
  pack_weights(plan, task.parameters, weights.data());
  Counter counter{task.num_walks};
  WalkWorker worker{};
  const ExactScratch<WalkWorker> scratch(walk_scratch(plan, program.input), worker);
  worker.task = &task;
  worker.plan = &view;
  worker.weights = weights.data();
  worker.next = Counter::take;
  worker.queue = &counter;
  worker.code_bytes = plan.code_bytes;
  worker.num_slots = plan.num_slots();
  variant.run(worker);
}

Result run(Simd simd, const Program& program, bool blind, float scale) {
  Random random;
  const int64_t num_values = program.input.size();
  const std::vector<float> parameters = random.around_zero(program.num_parameters, scale);
  const std::vector<float> x = random.values(kNumImages * num_values);
  const std::vector<float> directions = random.around_zero(kNumDirections * num_values, 0.4f);
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
  run_loop(simd, task);
  return result;
}

}  // namespace

int main() {
  Report report;
  for_each_case([&](size_t number, const Program& program) {
    for (const bool blind : {false, true}) {
      for (const float scale : {1.0f, 1e30f}) {  // large: logits and gradients that are not finite
        report.compare_fused("case", number, [&](Simd simd) { return run(simd, program, blind, scale); });
      }
    }
  });
  return report.finish();
}
