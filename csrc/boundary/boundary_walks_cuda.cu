// min_gd and blind_walk on the GPU: ids to the host, plan and queues to the device, the launches.
#include <vector>

#include "boundary/boundary_walks.h"
#include "boundary/boundary_walks_kernel.cuh"
#include "boundary/boundary_walks_launch.h"
#include "network/cuda/block_device.h"

namespace pydrift {
namespace {

constexpr uint32_t kPackThreads = 256;
constexpr uint32_t kPackBlocks = 1024;

void run_cuda(const BoundaryTask& task, const char* op, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const cudaStream_t stream = current_stream(device_index);
  const auto checked = [&](const char* name, const int32_t* ids, int64_t limit) {
    std::vector<int32_t> copy = download(ids, task.num_walks, stream);
    check_range(op, name, copy.data(), task.num_walks, limit);
    return copy;
  };
  const std::vector<int32_t> model = checked("model", task.model, task.num_models);
  checked("image", task.image, task.num_images);
  checked("label", task.label, task.program->num_classes());
  checked("norm", task.norm, kNumNorms);
  if (task.is_blind()) checked("direction", task.direction, task.num_directions);

  BlockQueues queues = make_queues(model.data(), task.num_walks, task.num_models);
  BlockLaunch<WalkArguments> launch(walk_kernel, device_index, stream);
  BlockShape shape = launch.fit(choose_cluster_size(*task.program, queues));
  shape.num_slots = choose_num_slots(queues, shape);
  assign_clusters(queues, shape);
  const WalkPlan plan = make_walk_plan(op, task, shape);

  DeviceMemory memory(device_index, stream);
  WalkArguments arguments = make_arguments(task, plan);
  BlockNetwork& network = arguments.network;
  network.passes = memory.upload(plan.passes), network.tables = memory.upload(plan.tables);
  network.packed = memory.allocate<float>(task.num_models * plan.packed_size);
  arguments.queues = upload(memory, queues);
  const size_t num_blocks = queues.cluster_model.size() * shape.cluster_size;
  arguments.workspace = memory.allocate<float>(static_cast<int64_t>(num_blocks) * plan.workspace_size);

  walk_pack_kernel<<<kPackBlocks, kPackThreads, 0, stream>>>(network);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch(num_blocks, plan.shared_size, arguments);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) {
  m.impl("min_gd", TORCH_BOX(&MinGdOp<run_cuda>::call));
  m.impl("blind_walk", TORCH_BOX(&BlindWalkOp<run_cuda>::call));
}

}  // namespace pydrift
