// The statistics kernel of the GPU for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include <limits>
#include <string>

#include "host_cuda.h"
//
#include "statistics/shadow_statistics_kernel.cuh"
#include "statistics/shadow_statistics_launch.h"

using namespace pydrift;

namespace {

void run(const ShadowTask& task, const BlockShape& shape, bool reversed) {
  const ShadowPlan plan = make_shadow_plan("shadow_statistics", task, shape);
  const ShadowCut cut = choose_cut("shadow_statistics", task, shape);
  const uint32_t num_blocks = num_clusters(cut, shape) * shape.cluster_size;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float4> packed(task.num_models * plan.packed_size / 4 + 1, {nan, nan, nan, nan});
  std::vector<float4> workspace(int64_t{num_blocks} * plan.workspace_size / 4 + 1, {nan, nan, nan, nan});
  ShadowArguments arguments = make_arguments(task, plan, cut);
  BlockNetwork& network = arguments.network;
  network.passes = plan.passes.data(), network.tables = plan.tables.data();
  network.packed = reinterpret_cast<float*>(packed.data());
  arguments.workspace = reinterpret_cast<float*>(workspace.data());
  host_cuda::launch(3, 32, reversed, [&] { shadow_pack_kernel(network); });
  const uint32_t num_threads = shape.num_threads, cluster_size = shape.cluster_size;
  const size_t shared_bytes = plan.shared_size * sizeof(float);
  host_cuda::launch({num_blocks, num_threads, cluster_size, shared_bytes}, reversed,
                    [&] { shadow_statistics_kernel(arguments); });
}

}  // namespace

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_shadow_statistics_kernel(const ShadowTask* task, const int64_t* codes, int64_t num_codes,
                                                    int32_t channels, int32_t height, int32_t width,
                                                    const BlockShape* shape, bool reversed) {
  static std::string message;
  try {
    const Program program = parse_program(codes, num_codes, {channels, height, width});
    ShadowTask complete = *task;
    complete.program = &program;
    run(complete, *shape, reversed);
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}

// Slots that the launcher would choose.
extern "C" int32_t chosen_num_slots(const ShadowTask* task, const int64_t* codes, int64_t num_codes, int32_t channels,
                                    int32_t height, int32_t width, const BlockShape* shape) {
  const Program program = parse_program(codes, num_codes, {channels, height, width});
  ShadowTask complete = *task;
  complete.program = &program;
  return choose_num_slots("shadow_statistics", complete, *shape);
}
