// The kernel of min_gd and blind_walk for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include "host_network.h"
//
#include "boundary/boundary_walks_kernel.cuh"
#include "boundary/boundary_walks_launch.h"
#include "host_queues.h"

using namespace pydrift;

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_walk_kernel(const BoundaryTask* task, const HostProgram* program, const BlockShape* shape,
                                       bool reversed) {
  return run_task(*task, *program, [&](const BoundaryTask& complete) {
    const WalkPlan plan = make_walk_plan(complete.is_blind() ? "blind_walk" : "min_gd", complete, *shape);
    HostQueues queues(complete.model, complete.num_walks, complete.num_models, *shape);
    HostNetwork network(plan, *shape, complete.num_models, queues.num_blocks());
    WalkArguments arguments = make_arguments(complete, plan);
    arguments.queues = queues.view();
    network.run(arguments, reversed, walk_pack_kernel, walk_kernel);
  });
}
