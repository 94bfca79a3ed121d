// The statistics kernel of the GPU for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include "host_network.h"
//
#include "statistics/shadow_statistics_kernel.cuh"
#include "statistics/shadow_statistics_launch.h"

using namespace pydrift;

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_shadow_statistics_kernel(const ShadowTask* task, const HostProgram* program,
                                                    const BlockShape* shape, bool reversed) {
  return run_task(*task, *program, [&](const ShadowTask& complete) {
    const ShadowPlan plan = make_shadow_plan("shadow_statistics", complete, *shape);
    const ShadowCut cut = choose_cut("shadow_statistics", complete, *shape);
    HostNetwork network(plan, *shape, complete.num_models, num_clusters(cut, *shape) * shape->cluster_size);
    network.run(make_arguments(complete, plan, cut), reversed, shadow_pack_kernel, shadow_statistics_kernel);
  });
}

// How many slots the launcher would choose.
extern "C" const char* choose_slots(const ShadowTask* task, const HostProgram* program, const BlockShape* shape,
                                    int32_t* num_slots) {
  return run_task(*task, *program, [&](const ShadowTask& complete) {
    *num_slots = choose_num_slots("shadow_statistics", complete, *shape);
  });
}
