// Runs the CPU's inversion loop of every variant over awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include "sanitized.h"
//
#include "invert/invert_scratch.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumSamples = 70;  // more than the slots of any variant
constexpr int32_t kMaxSteps = 6;

struct Result {
  std::vector<float> x, confidence, loss;
  std::vector<int32_t> steps;

  bool operator==(const Result& other) const {
    return same_bits(x, other.x) && same_bits(confidence, other.confidence) && same_bits(loss, other.loss) &&
           same_bits(steps, other.steps);
  }
};

AscentConstants constants_of(Optimizer optimizer) {
  return {optimizer, 0.05, 0.9, 0.999, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 0.02f, 0.002f, 0.0f, 1.0f, 0.6, 2};
}

void run_loop(Simd simd, const InvertTask& task) {
  const Program& program = *task.program;
  const Variant<InvertWorker>& variant = VariantTable<InvertWorker>::of(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, Passes::kInputGradient, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(plan.num_weights);
  pack_weights(plan, task.parameters, weights.data());
  Counter counter{task.num_samples};
  InvertWorker worker{};
  const ExactScratch<InvertWorker> scratch(invert_scratch(plan, program.input), worker);
  worker.task = &task;
  worker.plan = &view;
  worker.weights = weights.data();
  worker.next = Counter::take;
  worker.queue = &counter;
  worker.code_bytes = plan.code_bytes;
  worker.num_slots = plan.num_slots();
  variant.run(worker);
}

Result run(Simd simd, const Program& program, Optimizer optimizer, float scale) {
  Random random;
  const std::vector<float> parameters = random.around_zero(program.num_parameters, scale);
  Result result;
  result.x = random.values(kNumSamples * program.input.size());
  result.confidence.assign(kNumSamples, 0.0f);
  result.loss.assign(kNumSamples, 0.0f);
  result.steps.assign(kNumSamples, 0);
  const std::vector<int32_t> model(kNumSamples, 0);
  std::vector<int32_t> label, restart;
  for (int64_t n = 0; n < kNumSamples; ++n) {
    label.push_back(static_cast<int32_t>(n % program.num_classes()));
    restart.push_back(static_cast<int32_t>(kMaxRestarts - 1 - n));
  }
  InvertTask task{};
  task.program = &program, task.parameters = parameters.data();
  task.x = result.x.data();
  task.model = model.data(), task.label = label.data(), task.restart = restart.data();
  task.confidence = result.confidence.data(), task.loss = result.loss.data(), task.steps = result.steps.data();
  task.num_models = 1, task.num_samples = kNumSamples;
  task.seed = ~uint64_t{0};
  task.jitter = 3, task.max_steps = kMaxSteps;
  task.ascent = constants_of(optimizer);
  run_loop(simd, task);
  return result;
}

}  // namespace

int main() {
  Report report;
  for_each_case([&](size_t number, const Program& program) {
    for (const Optimizer optimizer : {Optimizer::kAdam, Optimizer::kMomentum}) {
      for (const float scale : {1.0f, 1e30f}) {  // large: logits and gradients that are not finite
        report.compare_fused("case", number, [&](Simd simd) { return run(simd, program, optimizer, scale); });
      }
    }
  });
  return report.finish();
}
