// The kernel of min_gd and blind_walk for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include <limits>
#include <string>

#include "host_cuda.h"
//
#include "boundary/boundary_walks_kernel.cuh"
#include "boundary/boundary_walks_launch.h"

using namespace pydrift;

namespace {

void run(const BoundaryTask& task, const BlockShape& shape, bool reversed) {
  const WalkPlan plan = make_walk_plan(task.is_blind() ? "blind_walk" : "min_gd", task, shape);
  BlockQueues queues = make_queues(task.model, task.num_walks, task.num_models);
  assign_clusters(queues, shape);
  const uint32_t num_blocks = queues.cluster_model.size() * shape.cluster_size;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float4> packed(task.num_models * plan.packed_size / 4 + 1, {nan, nan, nan, nan});
  std::vector<float4> workspace(int64_t{num_blocks} * plan.workspace_size / 4 + 1, {nan, nan, nan, nan});
  std::vector<int32_t> queue_next(task.num_models);
  WalkArguments arguments = make_arguments(task, plan);
  BlockNetwork& network = arguments.network;
  network.passes = plan.passes.data(), network.tables = plan.tables.data();
  network.packed = reinterpret_cast<float*>(packed.data());
  arguments.workspace = reinterpret_cast<float*>(workspace.data());
  arguments.queues = {queues.items.data(), queues.begin.data(), queues.cluster_model.data(), queue_next.data()};
  host_cuda::launch(3, 32, reversed, [&] { walk_pack_kernel(network); });
  const uint32_t num_threads = shape.num_threads, cluster_size = shape.cluster_size;
  const size_t shared_bytes = plan.shared_size * sizeof(float);
  host_cuda::launch({num_blocks, num_threads, cluster_size, shared_bytes}, reversed, [&] { walk_kernel(arguments); });
}

}  // namespace

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_walk_kernel(const BoundaryTask* task, const int64_t* codes, int64_t num_codes,
                                       int32_t channels, int32_t height, int32_t width, const BlockShape* shape,
                                       bool reversed) {
  static std::string message;
  try {
    const Program program = parse_program(codes, num_codes, {channels, height, width});
    BoundaryTask complete = *task;
    complete.program = &program;
    run(complete, *shape, reversed);
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}
