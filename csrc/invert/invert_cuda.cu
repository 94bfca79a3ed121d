// invert on the GPU: ids to the host, plan and queues to the device, the launches.
#include <vector>

#include "common/cuda.h"
#include "invert/invert.h"
#include "invert/invert_kernel.cuh"
#include "invert/invert_launch.h"

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

  InvertQueues queues = make_queues(model.data(), task.num_samples, task.num_models);
  const int32_t shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_index);
  const int32_t num_multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device_index);
  ClusterLaunch<InvertArguments> launch(invert_kernel, kMaxTeamThreads, shared_bytes, stream);
  int32_t cluster_size = knows_clusters(invert_kernel, device_index) ? choose_cluster_size(*task.program, queues) : 1;
  int32_t max_clusters = launch.set_cluster_size(cluster_size, num_multiprocessors);
  while (max_clusters == 0) max_clusters = launch.set_cluster_size(cluster_size /= 2, num_multiprocessors);
  const InvertShape shape = choose_shape(queues, cluster_size, max_clusters, shared_bytes / sizeof(float));
  assign_clusters(queues, shape);
  const InvertPlan plan = make_invert_plan(task, shape);

  DeviceMemory memory(device_index, stream);
  InvertArguments arguments = make_arguments(task, plan);
  arguments.network.passes = memory.upload(plan.passes), arguments.network.tables = memory.upload(plan.tables);
  arguments.cluster_model = memory.upload(queues.cluster_model);
  arguments.queue = memory.upload(queues.queue), arguments.queue_begin = memory.upload(queues.queue_begin);
  arguments.queue_next = memory.upload(std::vector<int32_t>(task.num_models));
  arguments.network.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  const size_t num_teams = queues.cluster_model.size() * cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_teams) * plan.workspace_size);

  pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(arguments.network);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_teams, plan.shared_size, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("invert", TORCH_BOX(&invert<run_cuda>)); }

}  // namespace pydrift
