// shadow_statistics and shadow_moments on the GPU: labels to the host, the plan to the device, the launches.
#include <vector>

#include "network/cuda/block_device.h"
#include "statistics/shadow_statistics.h"
#include "statistics/shadow_statistics_kernel.cuh"
#include "statistics/shadow_statistics_launch.h"

namespace pydrift {
namespace {

constexpr uint32_t kPackThreads = 256;
constexpr uint32_t kPackBlocks = 1024;

void run_cuda(const ShadowTask& task, const char* op, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const std::vector<int32_t> label = download(task.label, task.num_samples, stream);
  check_range(op, "label", label.data(), task.num_samples, task.program->num_classes());

  BlockLaunch<ShadowArguments> launch(shadow_statistics_kernel, device_index, stream);
  BlockShape shape = launch.fit(cluster_size_for(*task.program, task.num_samples));
  shape.num_slots = choose_num_slots(op, task, shape);
  const ShadowPlan plan = make_shadow_plan(op, task, shape);
  const ShadowCut cut = choose_cut(op, task, shape);

  DeviceMemory memory(device_index, stream);
  ShadowArguments arguments = make_arguments(task, plan, cut);
  BlockNetwork& network = arguments.network;
  network.passes = memory.upload(plan.passes), network.tables = memory.upload(plan.tables);
  network.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  const size_t num_blocks = static_cast<size_t>(num_clusters(cut, shape)) * shape.cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_blocks) * plan.workspace_size);

  shadow_pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(network);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_blocks, plan.shared_size, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) {
  m.impl("shadow_statistics", TORCH_BOX(&shadow_statistics<run_cuda>));
  m.impl("shadow_moments", TORCH_BOX(&shadow_moments<run_cuda>));
}

}  // namespace pydrift
