// The fused inversion of the GPU for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include <limits>

#include "host_cuda.h"
//
#include "invert/invert_kernel.cuh"
#include "invert/invert_launch.h"

using namespace pydrift;

namespace {

void run(const InvertTask& task, const BlockShape& shape, bool reversed) {
  const InvertPlan plan = make_invert_plan(task, shape);
  BlockQueues queues = make_queues(task.model, task.num_samples, task.num_models);
  assign_clusters(queues, shape);
  const uint32_t num_blocks = queues.cluster_model.size() * shape.cluster_size;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float4> packed(task.num_models * plan.packed_size / 4, {nan, nan, nan, nan});
  std::vector<float4> workspace(int64_t{num_blocks} * plan.workspace_size / 4, {nan, nan, nan, nan});
  std::vector<int32_t> queue_next(task.num_models);
  InvertArguments arguments = make_arguments(task, plan);
  arguments.network.passes = plan.passes.data(), arguments.network.tables = plan.tables.data();
  arguments.network.packed = reinterpret_cast<float*>(packed.data());
  arguments.workspace = reinterpret_cast<float*>(workspace.data());
  arguments.queues = {queues.items.data(), queues.begin.data(), queues.cluster_model.data(), queue_next.data()};
  host_cuda::launch(3, 32, reversed, [&] { pack_kernel(arguments.network); });
  const uint32_t num_threads = shape.num_threads, cluster_size = shape.cluster_size;
  const size_t shared_bytes = plan.shared_size * sizeof(float);
  host_cuda::launch({num_blocks, num_threads, cluster_size, shared_bytes}, reversed, [&] { invert_kernel(arguments); });
}

}  // namespace

// Of a network's passes, how many keep their weights in shared memory.
extern "C" int32_t count_resident_passes(const int64_t* codes, int64_t num_codes, int32_t channels, int32_t height,
                                         int32_t width, int32_t arithmetic, const BlockShape* shape) {
  const Program program = parse_program(codes, num_codes, {channels, height, width});
  InvertTask task{};
  task.program = &program, task.arithmetic = static_cast<Arithmetic>(arithmetic);
  int32_t count = 0;
  for (const Pass& pass : make_invert_plan(task, *shape).passes) count += pass.resident.shared;
  return count;
}

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_invert_kernel(const InvertTask* task, const int64_t* codes, int64_t num_codes,
                                         int32_t channels, int32_t height, int32_t width, const BlockShape* shape,
                                         bool reversed) {
  static std::string message;
  try {
    const Program program = parse_program(codes, num_codes, {channels, height, width});
    InvertTask complete = *task;
    complete.program = &program;
    run(complete, *shape, reversed);
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}
