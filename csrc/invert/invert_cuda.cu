// invert on the GPU: ids to the host, plan and queues to the device, the launches.
#include <vector>

#include "invert/invert.h"
#include "invert/invert_kernel.cuh"
#include "invert/invert_launch.h"
#include "network/cuda/block_device.h"

namespace pydrift {
namespace {

constexpr uint32_t kPackThreads = 256;
constexpr uint32_t kPackBlocks = 1024;

void run_cuda(const InvertTask& task, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const std::vector<int32_t> model = download(task.model, task.num_samples, stream);
  const std::vector<int32_t> label = download(task.label, task.num_samples, stream);
  const std::vector<int32_t> restart = download(task.restart, task.num_samples, stream);
  check_range("invert", "model", model.data(), task.num_samples, task.num_models);
  check_range("invert", "label", label.data(), task.num_samples, task.program->num_classes());
  check_range("invert", "restart", restart.data(), task.num_samples, kMaxRestarts);

  BlockQueues queues = make_queues(model.data(), task.num_samples, task.num_models);
  BlockLaunch<InvertArguments> launch(invert_kernel, device_index, stream);
  BlockShape shape = launch.fit(choose_cluster_size(*task.program, queues));
  shape.num_slots = choose_num_slots(queues, shape);
  assign_clusters(queues, shape);
  const InvertPlan plan = make_invert_plan(task, shape);

  DeviceMemory memory(device_index, stream);
  InvertArguments arguments = make_arguments(task, plan);
  arguments.network.passes = memory.upload(plan.passes), arguments.network.tables = memory.upload(plan.tables);
  arguments.queues = upload(memory, queues);
  arguments.network.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  const size_t num_blocks = queues.cluster_model.size() * shape.cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_blocks) * plan.workspace_size);

  pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(arguments.network);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_blocks, plan.shared_size, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("invert", TORCH_BOX(&InvertOp<run_cuda>::call)); }

}  // namespace pydrift
