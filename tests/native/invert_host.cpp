// The fused inversion of the GPU for ctypes: the launcher's plan and the CUDA source, executed on the host.
#include "host_network.h"
//
#include "host_queues.h"
#include "invert/invert_kernel.cuh"
#include "invert/invert_launch.h"

using namespace pydrift;

// `task` without its program. Returns null, or what went wrong.
extern "C" const char* run_invert_kernel(const InvertTask* task, const HostProgram* program, const BlockShape* shape,
                                         bool reversed) {
  return run_task(*task, *program, [&](const InvertTask& complete) {
    const InvertPlan plan = make_invert_plan(complete, *shape);
    HostQueues queues(complete.model, complete.num_samples, complete.num_models, *shape);
    HostNetwork network(plan, *shape, complete.num_models, queues.num_blocks());
    InvertArguments arguments = make_arguments(complete, plan);
    arguments.queues = queues.view();
    network.run(arguments, reversed, pack_kernel, invert_kernel);
  });
}

// Of a network's passes, how many keep their weights in shared memory.
extern "C" const char* count_resident_passes(const HostProgram* program, int32_t arithmetic, const BlockShape* shape,
                                             int32_t* count) {
  InvertTask task{};
  task.arithmetic = static_cast<Arithmetic>(arithmetic);
  return run_task(task, *program, [&](const InvertTask& complete) {
    *count = 0;
    for (const Pass& pass : make_invert_plan(complete, *shape).passes) *count += pass.resident.shared;
  });
}
