// shadow_train on the GPU: values to the host for their check, tables to the device, wave after wave of models.
#include <algorithm>
#include <vector>

#include "common/cuda.h"
#include "shadow/shadow_train.h"
#include "shadow/shadow_train_wave.cuh"

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
  std::vector<double> rate;
  std::vector<TrainHyper> hyper;

  TrainValues(const ShadowTrainTask& task, cudaStream_t stream)
      : label(download(task.label, task.num_images, stream)),
        order(download(task.order, task.num_looks_at, stream)),
        num_steps(download(task.num_steps, task.num_models, stream)),
        batch_size(download(task.batch_size, task.num_models, stream)),
        steps_done(download(task.steps_done, task.num_models, stream)),
        rate(download(task.rate, task.num_rates, stream)),
        hyper(download(task.hyper, task.num_models, stream)) {}

  ShadowTrainTask of(ShadowTrainTask task) const {
    task.label = label.data(), task.order = order.data();
    task.num_steps = num_steps.data(), task.batch_size = batch_size.data();
    task.steps_done = steps_done.data(), task.rate = rate.data(), task.hyper = hyper.data();
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
  const WaveMemory wave(plan, *task.program);
  const int64_t num_in_wave = wave.models_in(kWaveBytes, task.num_models);
  WaveTrainer<StreamLaunch> trainer(plan, task.optimizer, models, StreamLaunch{stream});
  for (int64_t first = 0; first < task.num_models; first += num_in_wave) {
    allocate_zeros(arguments.shared, wave.shared_floats, num_in_wave);
    allocate_zeros(arguments.groups, wave.group_floats, num_in_wave);
    allocate_zeros(arguments.codes, wave.code_bytes, num_in_wave);
    allocate_zeros(arguments.gradients, wave.num_gradients, num_in_wave);
    allocate_zeros(arguments.losses, wave.num_losses, num_in_wave);
    trainer.run(arguments, static_cast<int32_t>(first),
                static_cast<int32_t>(std::min(num_in_wave, task.num_models - first)));
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("shadow_train", TORCH_BOX(&shadow_train<run_cuda>)); }

}  // namespace pydrift
