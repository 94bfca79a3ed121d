// The training of the GPU for ctypes: the launcher's tables and sequence of launches, the kernels executed on the host.
#include <algorithm>

#include "host_network.h"
//
#include "train/shadow_train_model_batch.cuh"

using namespace pydrift;

namespace {

struct HostLaunch {
  bool reversed;

  template <class Kernel, class... Arguments>
  void operator()(Kernel kernel, int32_t num_blocks, const Arguments&... arguments) const {
    host_cuda::launch(num_blocks, kTrainThreads, reversed, [&] { kernel(arguments...); });
  }
};

void run(const ShadowTrainTask& task, int64_t model_batch_bytes, bool reversed) {
  const TrainParts parts = check_train_values(task);
  const Plan plan = make_device_train_plan(*task.program);
  const std::vector<DeviceModel> models = device_models(task, parts);
  const std::vector<OptimizerStep> steps = optimizer_steps(task, parts);
  TrainArguments arguments = make_train_arguments(task, plan);
  arguments.models = models.data(), arguments.optimizer_steps = steps.data();
  arguments.offsets = plan.offsets.data(), arguments.term_parameters = plan.parameters.data();
  arguments.tiles = plan.tiles.data();
  const ModelBatchMemory batch_memory(plan, *task.program);
  const int64_t num_in_model_batch = batch_memory.models_in(model_batch_bytes, task.num_models);
  ModelBatchTrainer<HostLaunch> trainer(plan, task.optimizer, models, HostLaunch{reversed});
  for (int64_t first = 0; first < task.num_models; first += num_in_model_batch) {
    std::vector<float> shared(batch_memory.shared_floats * num_in_model_batch),
        groups(batch_memory.group_floats * num_in_model_batch),
        gradients(batch_memory.num_gradients * num_in_model_batch);
    std::vector<uint8_t> codes(batch_memory.code_bytes * num_in_model_batch);
    std::vector<double> losses(batch_memory.num_losses * num_in_model_batch);
    arguments.shared = shared.data(), arguments.groups = groups.data(), arguments.codes = codes.data();
    arguments.gradients = gradients.data(), arguments.losses = losses.data();
    trainer.run(arguments, static_cast<int32_t>(first),
                static_cast<int32_t>(std::min(num_in_model_batch, task.num_models - first)));
  }
}

}  // namespace

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_shadow_train_kernel(const ShadowTrainTask* task, const HostProgram* program,
                                               int64_t model_batch_bytes, bool reversed) {
  return run_task(*task, *program,
                  [&](const ShadowTrainTask& complete) { run(complete, model_batch_bytes, reversed); });
}
