// shadow_train on the CPU: models in parallel, each by one thread from its first step to its last.
#include <algorithm>
#include <atomic>

#include "train/shadow_train.h"
#include "train/shadow_train_check.h"
#include "train/shadow_train_scratch.h"

namespace pydrift {
namespace {

void train_model(const ShadowTrainTask& task, const Variant<ShadowTrainWorker>& variant,
                 const ShadowTrainWorker& worker) {
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
  const Variant<ShadowTrainWorker>& variant = VariantTable<ShadowTrainWorker>::of(chosen_simd());
  const Plan plan = make_train_plan(*task.program, variant.lanes, variant.rows, /*winograd=*/true);
  const PlanView view(plan);

  const int64_t num_threads = std::min<int64_t>(torch::stable::get_num_threads(), task.num_models);
  const ScratchPool<ShadowTrainWorker> scratch(shadow_train_scratch(plan, task.program->num_parameters, task.optimizer),
                                               num_threads);
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
        scratch.lend(thread, worker);
        train_model(task, variant, worker);
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("shadow_train", TORCH_BOX(&shadow_train<run_cpu>)); }

}  // namespace pydrift
