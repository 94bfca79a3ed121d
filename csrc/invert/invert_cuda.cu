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

int32_t device_attribute(cudaDeviceAttr attribute, int32_t device_index) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device_index));
  return value;
}

// Whether the device has clusters and runs code that was compiled for them: it may run older code.
bool knows_clusters(int32_t device_index) {
  cudaFuncAttributes attributes{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, invert_kernel));
  return device_attribute(cudaDevAttrClusterLaunch, device_index) != 0 && attributes.ptxVersion >= 90;
}

// One team per multiprocessor, in clusters where the device has them and it pays.
class ClusterLaunch {
 public:
  ClusterLaunch(int32_t num_threads, int32_t shared_bytes, cudaStream_t stream) {
    attribute_.id = cudaLaunchAttributeClusterDimension;
    config_.attrs = &attribute_;
    config_.blockDim = {static_cast<uint32_t>(num_threads), 1, 1};
    config_.dynamicSmemBytes = shared_bytes;
    config_.stream = stream;
    STD_CUDA_CHECK(cudaFuncSetAttribute(invert_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  }

  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  // Clusters of this size that run at once; 0 where the device has no room for one. Later launches have this size.
  int32_t set_cluster_size(int32_t cluster_size, int32_t num_multiprocessors) {
    attribute_.val.clusterDim = {static_cast<uint32_t>(cluster_size), 1, 1};
    config_.numAttrs = cluster_size > 1 ? 1 : 0;
    config_.gridDim = {static_cast<uint32_t>(cluster_size), 1, 1};
    if (cluster_size == 1) return num_multiprocessors;
    int count = 0;
    if (cudaOccupancyMaxActiveClusters(&count, invert_kernel, &config_) != cudaSuccess) {
      cudaGetLastError();  // the size is not to be had; forget it
      return 0;
    }
    return count;
  }

  void operator()(size_t num_blocks, const InvertArguments& arguments) {
    config_.gridDim.x = static_cast<uint32_t>(num_blocks);
    config_.dynamicSmemBytes = arguments.shared_size * sizeof(float);
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config_, invert_kernel, arguments));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  cudaLaunchAttribute attribute_{};
  cudaLaunchConfig_t config_{};
};

void run_cuda(const InvertTask& task, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const std::vector<int32_t> model = download(task.model, task.num_samples, stream);
  const std::vector<int32_t> label = download(task.label, task.num_samples, stream);
  const std::vector<int32_t> restart = download(task.restart, task.num_samples, stream);
  check_range("model", model.data(), task.num_samples, task.num_models);
  check_range("label", label.data(), task.num_samples, task.program->num_classes());
  check_range("restart", restart.data(), task.num_samples, kMaxRestarts);

  InvertQueues queues = make_queues(model.data(), task.num_samples, task.num_models);
  const int32_t shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_index);
  const int32_t num_multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device_index);
  ClusterLaunch launch(kMaxTeamThreads, shared_bytes, stream);
  int32_t cluster_size = knows_clusters(device_index) ? choose_cluster_size(*task.program, queues) : 1;
  int32_t max_clusters = launch.set_cluster_size(cluster_size, num_multiprocessors);
  while (max_clusters == 0) max_clusters = launch.set_cluster_size(cluster_size /= 2, num_multiprocessors);
  const InvertShape shape = choose_shape(queues, cluster_size, max_clusters, shared_bytes / sizeof(float));
  assign_clusters(queues, shape);
  const InvertPlan plan = InvertPlanner(*task.program, task.arithmetic, shape.num_slots, shape.shared_limit).take();

  DeviceMemory memory(device_index, stream);
  InvertArguments arguments = make_arguments(task, plan);
  arguments.passes = memory.upload(plan.passes), arguments.tables = memory.upload(plan.tables);
  arguments.cluster_model = memory.upload(queues.cluster_model);
  arguments.queue = memory.upload(queues.queue), arguments.queue_begin = memory.upload(queues.queue_begin);
  arguments.queue_next = memory.upload(std::vector<int32_t>(task.num_models));
  arguments.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  const size_t num_teams = queues.cluster_model.size() * cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_teams) * plan.workspace_size);

  pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(arguments);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_teams, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("invert", TORCH_BOX(&invert<run_cuda>)); }

}  // namespace pydrift
