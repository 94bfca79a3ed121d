// Runs the CPU's training loop of every variant over awkward networks and batches; built with the sanitizers by the
// tests. Exits 0 if nothing is reported; prints the number of runs.
#include "sanitized.h"
//
#include <algorithm>

#include "train/shadow_train_scratch.h"

using namespace pydrift;

namespace {

constexpr int32_t kNumImages = 7, kNumSteps = 2;

struct Images {
  std::vector<uint8_t> bytes;
  std::vector<float> floats;
  std::vector<int32_t> label;

  Images(const Program& program, bool as_bytes, Random& random) {
    for (int64_t i = 0; i < kNumImages * program.input.size(); ++i) {
      if (as_bytes) bytes.push_back(static_cast<uint8_t>(random.word()));
      if (!as_bytes) floats.push_back(random());
    }
    for (int32_t n = 0; n < kNumImages; ++n) label.push_back(n % program.num_classes());
  }
};

// What each step takes; some images are moved away altogether.
struct Batches {
  std::vector<int32_t> order;
  std::vector<Augmentation> augmentation;

  Batches(int32_t batch_size, Random& random) {
    for (int32_t i = 0; i < kNumSteps * batch_size; ++i) {
      order.push_back(static_cast<int32_t>(random.word() % kNumImages));
      augmentation.push_back({static_cast<int8_t>(random.word() % 40 - 20), static_cast<int8_t>(random.word() % 5 - 2),
                              static_cast<int8_t>(random.word() % 2)});
    }
  }
};

void run_loop(Simd simd, const ShadowTrainTask& task, const Batches& batches, const std::vector<float>& parameters) {
  const Variant<ShadowTrainWorker>& variant = VariantTable<ShadowTrainWorker>::of(simd);
  const Plan plan = make_plan(*task.program, variant.lanes, variant.rows, Passes::kWeightGradient, /*winograd=*/true);
  const PlanView view(plan);
  const int64_t num_parameters = task.program->num_parameters;
  const std::vector<double> learning_rate(kNumSteps, 0.01);
  ShadowTrainWorker worker{};
  const ExactScratch<ShadowTrainWorker> scratch(shadow_train_scratch(plan, num_parameters, task.optimizer), worker);
  std::copy(parameters.begin(), parameters.end(), worker.parameters);
  worker.task = &task;
  worker.plan = &plan;
  worker.view = &view;
  worker.order = batches.order.data();
  worker.augmentation = batches.augmentation.data();
  worker.learning_rate = learning_rate.data();
  variant.run(worker);
}

void run(Simd simd, const Program& program, TrainOptimizer optimizer, int32_t batch_size, bool bytes) {
  Random random;
  const std::vector<float> parameters = random.around_zero(program.num_parameters, 1.0f);
  const Images images(program, bytes, random);
  const Batches batches(batch_size, random);
  const TrainHyperparameters hyperparameters{0.9, 0.999, 1e-8, 0.01, 0.1};
  const int64_t steps_done = 0;
  const int32_t num_steps = kNumSteps;
  float loss = 0.0f;
  ShadowTrainTask task{};
  task.program = &program;
  task.bytes = bytes ? images.bytes.data() : nullptr;
  task.floats = bytes ? nullptr : images.floats.data();
  task.label = images.label.data();
  task.steps_done = &steps_done, task.num_steps = &num_steps, task.batch_size = &batch_size;
  task.hyperparameters = &hyperparameters;
  task.loss = &loss;
  task.num_images = kNumImages, task.num_models = 1;
  task.optimizer = optimizer;
  run_loop(simd, task, batches, parameters);
}

}  // namespace

int main() {
  Report report;
  for_each_case([&](size_t, const Program& program) {
    if (program.num_parameters == 0) return;  // nothing to train
    for (const int32_t batch_size : {1, 17, 70}) {
      const TrainOptimizer optimizer = batch_size == 17 ? TrainOptimizer::kSgd : TrainOptimizer::kAdam;
      report.run_all([&](Simd simd) { run(simd, program, optimizer, batch_size, batch_size == 1); });
    }
  });
  return report.finish();
}
