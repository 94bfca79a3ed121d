// shadow_train on the GPU. Values go to the host, where they are checked; tables go to the device; models are trained
// in batches, one after the other.
#include <algorithm>
#include <vector>

#include "common/cuda.h"
#include "train/shadow_train.h"
#include "train/shadow_train_model_batch.cuh"

namespace pydrift {
namespace {

struct StreamLaunch {
  cudaStream_t stream;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int32_t num_blocks, const Arguments&... arguments) const {
    kernel<<<static_cast<uint32_t>(num_blocks), kTrainThreads, 0, stream>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Copies of all values but the images, the parameters and the moments.
struct TrainValues {
  std::vector<int32_t> label, order, num_steps, batch_size;
  std::vector<int64_t> steps_done;
  std::vector<double> learning_rate;
  std::vector<TrainHyperparameters> hyperparameters;

  TrainValues(const ShadowTrainTask& task, cudaStream_t stream)
      : label(download(task.label, task.num_images, stream)),
        order(download(task.order, task.num_order_entries, stream)),
        num_steps(download(task.num_steps, task.num_models, stream)),
        batch_size(download(task.batch_size, task.num_models, stream)),
        steps_done(download(task.steps_done, task.num_models, stream)),
        learning_rate(download(task.learning_rate, task.num_learning_rates, stream)),
        hyperparameters(download(task.hyperparameters, task.num_models, stream)) {}

  ShadowTrainTask of(ShadowTrainTask task) const {
    task.label = label.data(), task.order = order.data();
    task.num_steps = num_steps.data(), task.batch_size = batch_size.data();
    task.steps_done = steps_done.data(), task.learning_rate = learning_rate.data(),
    task.hyperparameters = hyperparameters.data();
    return task;
  }
};

void run_cuda(const ShadowTrainTask& task, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const TrainValues values(task, stream);
  const ShadowTrainTask on_host = values.of(task);
  const TrainParts parts = check_train_values(on_host);
  const Plan plan = make_device_train_plan(*task.program);
  if (task.num_models == 0) return;
  const std::vector<DeviceModel> models = device_models(on_host, parts);

  DeviceMemory memory(device_index, stream);
  TrainArguments arguments = make_train_arguments(task, plan);
  arguments.models = memory.upload(models);
  arguments.optimizer_steps = memory.upload(optimizer_steps(on_host, parts));
  arguments.offsets = memory.upload(plan.offsets), arguments.term_parameters = memory.upload(plan.parameters);
  arguments.tiles = memory.upload(plan.tiles);
  const auto allocate_zeros = [&](auto*& zeros, int64_t per_model, int64_t num_models) {
    using Element = std::remove_reference_t<decltype(*zeros)>;
    if (zeros == nullptr) zeros = memory.allocate<Element>(per_model * num_models);
    STD_CUDA_CHECK(cudaMemsetAsync(zeros, 0, per_model * num_models * sizeof(Element), stream));
  };
  const ModelBatchMemory batch_memory(plan, *task.program);
  const int64_t num_in_model_batch = batch_memory.models_in(kModelBatchBytes, task.num_models);
  ModelBatchTrainer<StreamLaunch> trainer(plan, task.optimizer, models, StreamLaunch{stream});
  for (int64_t first = 0; first < task.num_models; first += num_in_model_batch) {
    allocate_zeros(arguments.shared, batch_memory.shared_floats, num_in_model_batch);
    allocate_zeros(arguments.groups, batch_memory.group_floats, num_in_model_batch);
    allocate_zeros(arguments.codes, batch_memory.code_bytes, num_in_model_batch);
    allocate_zeros(arguments.gradients, batch_memory.num_gradients, num_in_model_batch);
    allocate_zeros(arguments.losses, batch_memory.num_losses, num_in_model_batch);
    trainer.run(arguments, static_cast<int32_t>(first),
                static_cast<int32_t>(std::min(num_in_model_batch, task.num_models - first)));
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("shadow_train", TORCH_BOX(&shadow_train<run_cuda>)); }

}  // namespace pydrift
