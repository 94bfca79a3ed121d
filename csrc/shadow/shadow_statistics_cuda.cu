// shadow_statistics and shadow_moments on the GPU: labels to the host, the plan to the device, the launches.
#include <vector>

#include "arch/team_device.h"
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

  TeamLaunch<ShadowArguments> launch(shadow_statistics_kernel, device_index, stream);
  TeamShape shape = launch.fit(cluster_size_for(*task.program, task.num_samples));
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
