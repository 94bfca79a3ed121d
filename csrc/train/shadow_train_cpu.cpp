// shadow_train on the CPU: models in parallel, each by one thread from its first step to its last.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "common/memory.h"
#include "train/shadow_train.h"
#include "train/shadow_train_check.h"
#include "train/shadow_train_worker.h"

namespace pydrift {
namespace {

// The memory of one thread: a model's numbers, and the network's.
class Scratch {
 public:
  Scratch(const ShadowTrainTask& task, const Plan& plan, int64_t scratch_floats)
      : num_parameters_(task.program->num_parameters),
        num_moments_(task.optimizer == TrainOptimizer::kAdam ? 2 : 1),
        model_(layout_.reserve<float>((2 + num_moments_) * num_parameters_)),
        weights_(layout_.reserve<float>(plan.num_weights)),
        shared_(layout_.reserve<float>(plan.shared_floats)),
        groups_(layout_.reserve<float>(kMaxGroups * plan.group_floats)),
        codes_(layout_.reserve<uint8_t>(kMaxGroups * plan.code_bytes)),
        scratch_(layout_.reserve<float>(scratch_floats)),
        memory_(layout_.size()) {}

  void lend(ShadowTrainWorker& worker) const {
    float* model = memory_.at<float>(model_);
    worker.parameters = model;
    worker.gradients = model + num_parameters_;
    worker.first_moment = model + 2 * num_parameters_;
    worker.second_moment = num_moments_ == 2 ? model + 3 * num_parameters_ : nullptr;
    worker.weights = memory_.at<float>(weights_);
    worker.shared = memory_.at<float>(shared_);
    worker.groups = memory_.at<float>(groups_);
    worker.codes = memory_.at<uint8_t>(codes_);
    worker.scratch = memory_.at<float>(scratch_);
  }

 private:
  Layout layout_;  // before what is reserved
  int64_t num_parameters_, num_moments_;
  size_t model_, weights_, shared_, groups_, codes_, scratch_;
  Memory memory_;
};

void train_model(const ShadowTrainTask& task, const ShadowTrainVariant& variant, const ShadowTrainWorker& worker) {
  const int64_t size = task.program->num_parameters, begin = worker.model * size;
  std::copy_n(task.parameters + begin, size, worker.parameters);
  std::copy_n(task.first_moment + begin, size, worker.first_moment);
  if (worker.second_moment != nullptr) std::copy_n(task.second_moment + begin, size, worker.second_moment);
  variant.run(worker);
  std::copy_n(worker.parameters, size, task.parameters + begin);
  std::copy_n(worker.first_moment, size, task.first_moment + begin);
  if (worker.second_moment != nullptr) std::copy_n(worker.second_moment, size, task.second_moment + begin);
}

void run_cpu(const ShadowTrainTask& task, int32_t /*device_index*/) {
  const TrainParts parts = check_train_values(task);
  const ShadowTrainVariant& variant = shadow_train_variant(chosen_simd());
  const Plan plan = make_train_plan(*task.program, variant.lanes, variant.rows, /*winograd=*/true);
  const PlanView view(plan);

  // All memory before the threads: a failure in one of them could not be thrown through torch.
  const int64_t num_threads = std::min<int64_t>(torch::stable::get_num_threads(), task.num_models);
  const int64_t scratch_floats = variant.scratch_floats(view);
  std::vector<std::unique_ptr<Scratch>> scratch;
  for (int64_t i = 0; i < num_threads; ++i) {
    scratch.push_back(std::make_unique<Scratch>(task, plan, scratch_floats));
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t model = next++; model < task.num_models; model = next++) {
        ShadowTrainWorker worker{};
        worker.task = &task;
        worker.plan = &plan;
        worker.view = &view;
        worker.model = model;
        worker.order = task.order + parts.order[model];
        worker.augmentation = task.augmentation == nullptr ? nullptr : task.augmentation + parts.order[model];
        worker.learning_rate = task.learning_rate + parts.learning_rate[model];
        scratch[thread]->lend(worker);
        train_model(task, variant, worker);
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("shadow_train", TORCH_BOX(&shadow_train<run_cpu>)); }

}  // namespace pydrift
