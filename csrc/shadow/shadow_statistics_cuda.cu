// shadow_statistics and shadow_moments on the GPU: labels to the host, the plan to the device, the launches.
#include <vector>

#include "common/cuda.h"
#include "shadow/shadow_statistics.h"
#include "shadow/shadow_statistics_kernel.cuh"
#include "shadow/shadow_statistics_launch.h"

namespace pydrift {
namespace {

constexpr uint32_t kPackThreads = 256;
constexpr uint32_t kPackBlocks = 1024;

void run_cuda(const ShadowTask& task, const char* op, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const std::vector<int32_t> label = download(task.label, task.num_samples, stream);
  check_range(op, "label", label.data(), task.num_samples, task.program->num_classes());

  const int32_t shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_index);
  const int32_t num_multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device_index);
  ClusterLaunch<ShadowArguments> launch(shadow_statistics_kernel, kMaxTeamThreads, shared_bytes, stream);
  ShadowShape shape{1, kMaxTeamThreads, 1, 0, static_cast<int64_t>(shared_bytes / sizeof(float))};
  if (knows_clusters(shadow_statistics_kernel, device_index)) {
    shape.cluster_size = cluster_size_for(*task.program, task.num_samples);
  }
  shape.max_clusters = launch.set_cluster_size(shape.cluster_size, num_multiprocessors);
  while (shape.max_clusters == 0) {
    shape.max_clusters = launch.set_cluster_size(shape.cluster_size /= 2, num_multiprocessors);
  }
  shape.num_slots = choose_num_slots(op, task, shape);
  const ShadowPlan plan = make_shadow_plan(op, task, shape);
  const ShadowCut cut = choose_cut(op, task, shape);

  DeviceMemory memory(device_index, stream);
  ShadowArguments arguments = make_arguments(task, plan, cut);
  TeamNetwork& network = arguments.network;
  network.passes = memory.upload(plan.passes), network.tables = memory.upload(plan.tables);
  network.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  const size_t num_teams = static_cast<size_t>(num_clusters(cut, shape)) * shape.cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_teams) * plan.workspace_size);

  shadow_pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(network);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_teams, plan.shared_size, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) {
  m.impl("shadow_statistics", TORCH_BOX(&shadow_statistics<run_cuda>));
  m.impl("shadow_moments", TORCH_BOX(&shadow_moments<run_cuda>));
}

}  // namespace pydrift
