// Runs the CPU's training loop of every variant over awkward networks and batches; built with the sanitizers by the
// tests. Exits 0 if nothing is reported; prints the number of runs.
#include <cstdio>
#include <vector>

#include "train/shadow_train_worker.h"

using namespace pydrift;

namespace {

constexpr int32_t kNumImages = 7, kNumSteps = 2;

struct Case {
  LayerShape input;
  std::vector<int64_t> program;
};

const std::vector<Case> kCases = {
    {{1, 1, 1}, {6, 0, 1, 1}},
    {{3, 9, 13}, {6, 0, 351, 10}},
    {{1, 8, 8}, {3, 6, 2, 64, 0, 64, 17, 3, 2, 17, 0, 17, 13, 0, 13, 7, 3}},
    {{1, 9, 13}, {1, 1, 5, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 120, 4}},
    {{2, 8, 9}, {1, 2, 6, 3, 3, 1, 1, 0, 0, 4, 3, 3, 2, 2, 1, 1, 3, 6, 0, 72, 3}},
    {{3, 11, 8}, {2, 3, 1, 3, 7, 5, 5, 2, 2, 2, 2, 3, 2, 7, 1, 7, 4, 3, 3, 1, 1, 1, 1, 5, 3, 2, 3, 2, 6, 0, 16, 3}},
    {{1, 7, 5}, {1, 1, 3, 5, 3, 2, 1, 1, 0, 1, 3, 9, 1, 1, 3, 2, 4, 3, 6, 0, 180, 2}},
    {{1, 7, 5}, {1, 1, 8, 3, 3, 1, 1, 1, 1, 3, 1, 8, 9, 3, 3, 1, 1, 1, 1, 3, 6, 0, 315, 3}},
    {{1, 6, 7}, {1, 1, 9, 3, 3, 1, 1, 2, 2, 3, 1, 9, 8, 3, 3, 1, 1, 0, 0, 4, 2, 2, 2, 2, 0, 0, 3, 6, 0, 72, 3}},
    {{3, 12, 12}, {1, 3, 8, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0,   0,  1, 8, 16, 3,
                   3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 144, 19, 3, 0, 19, 10}},
};

// Exactly sized heap arrays, so that one element too far is seen.
void run(Simd simd, const Program& program, TrainOptimizer optimizer, int32_t batch_size, bool bytes) {
  uint32_t state = 1;
  const auto random = [&] { return state = state * 1664525u + 1013904223u, state >> 8; };
  const size_t num_values = kNumImages * program.input.size(), num_order_entries = kNumSteps * batch_size;
  std::vector<float> parameters, floats;
  std::vector<uint8_t> pixels;
  for (int64_t i = 0; i < program.num_parameters; ++i) parameters.push_back(random() / 16777216.0f - 0.5f);
  for (size_t i = 0; i < num_values; ++i) {
    if (bytes) pixels.push_back(static_cast<uint8_t>(random()));
    if (!bytes) floats.push_back(random() / 16777216.0f);
  }
  std::vector<int32_t> label, order;
  for (int32_t n = 0; n < kNumImages; ++n) label.push_back(n % program.num_classes());
  std::vector<Augmentation> augmentation;
  for (size_t i = 0; i < num_order_entries; ++i) {
    order.push_back(static_cast<int32_t>(random() % kNumImages));
    augmentation.push_back({static_cast<int8_t>(random() % 40 - 20), static_cast<int8_t>(random() % 5 - 2),
                            static_cast<int8_t>(random() % 2)});
  }
  const std::vector<double> learning_rate(kNumSteps, 0.01);
  const TrainHyperparameters hyperparameters{0.9, 0.999, 1e-8, 0.01, 0.1};
  const int64_t steps_done = 0;
  const int32_t num_steps = kNumSteps;
  float loss = 0.0f;
  ShadowTrainTask task{};
  task.program = &program;
  task.bytes = bytes ? pixels.data() : nullptr;
  task.floats = bytes ? nullptr : floats.data();
  task.label = label.data();
  task.steps_done = &steps_done;
  task.num_steps = &num_steps;
  task.batch_size = &batch_size;
  task.hyperparameters = &hyperparameters;
  task.loss = &loss;
  task.num_images = kNumImages;
  task.num_models = 1;
  task.optimizer = optimizer;

  const ShadowTrainVariant& variant = shadow_train_variant(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, Passes::kWeightGradient, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> first(parameters.size()), second(optimizer == TrainOptimizer::kAdam ? parameters.size() : 0),
      gradients(parameters.size()), weights(plan.num_weights), shared(plan.shared_floats),
      groups(kMaxGroups * plan.group_floats), scratch(variant.scratch_floats(view));
  std::vector<uint8_t> codes(kMaxGroups * plan.code_bytes);
  ShadowTrainWorker worker{};
  worker.task = &task;
  worker.plan = &plan;
  worker.view = &view;
  worker.order = order.data();
  worker.augmentation = augmentation.data();
  worker.learning_rate = learning_rate.data();
  worker.parameters = parameters.data();
  worker.first_moment = first.data();
  worker.second_moment = second.data();
  worker.gradients = gradients.data();
  worker.weights = weights.data();
  worker.shared = shared.data();
  worker.groups = groups.data();
  worker.codes = codes.data();
  worker.scratch = scratch.data();
  variant.run(worker);
}

}  // namespace

int main() {
  int num_runs = 0;
  for (const Case& one : kCases) {
    const Program program = parse_program(one.program.data(), one.program.size(), one.input);
    for (const Simd simd : kAllSimd) {
      if (!simd_supported(simd)) continue;
      for (const int32_t batch_size : {1, 17, 70}) {
        const bool adam = batch_size != 17;
        run(simd, program, adam ? TrainOptimizer::kAdam : TrainOptimizer::kSgd, batch_size, batch_size == 1);
        ++num_runs;
      }
    }
  }
  std::printf("%d runs\n", num_runs);
}
