// min_gd and blind_walk on the CPU: blocks of walks in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "boundary/boundary_walks.h"
#include "boundary/boundary_walks_scratch.h"
#include "network/cpu/model_queue.h"

namespace pydrift {
namespace {

void run_cpu(const BoundaryTask& task, const char* op, int32_t /*device_index*/) {
  check_range(op, "model", task.model, task.num_walks, task.num_models);
  check_range(op, "image", task.image, task.num_walks, task.num_images);
  check_range(op, "label", task.label, task.num_walks, task.program->num_classes());
  check_range(op, "norm", task.norm, task.num_walks, kNumNorms);
  const bool blind = task.is_blind();
  if (blind) check_range(op, "direction", task.direction, task.num_walks, task.num_directions);
  const Variant<WalkWorker>& variant = VariantTable<WalkWorker>::of(chosen_simd());
  const Passes passes = blind ? Passes::kForward : Passes::kInputGradient;
  const Plan plan =
      refuse_as(op, [&] { return make_plan(*task.program, variant.lanes, variant.rows, passes, /*winograd=*/true); });
  ModelQueues queues(plan, task.model, task.num_walks, task.num_models);
  for (ModelQueue& queue : queues.all()) {  // so that few groups mix norms: a group does the work of every norm in it
    std::stable_sort(queue.items.begin(), queue.items.end(),
                     [&](int64_t a, int64_t b) { return task.norm[a] < task.norm[b]; });
  }
  const int64_t num_threads = threads_for(plan, task.num_walks, torch::stable::get_num_threads());
  const ScratchPool<WalkWorker> scratch(walk_scratch(plan, task.program->input), num_threads);
  const QueueRun<BoundaryTask, WalkWorker> run(task, plan, variant, scratch, queues, num_threads);
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) run(thread);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) {
  m.impl("min_gd", TORCH_BOX(&MinGdOp<run_cpu>::call));
  m.impl("blind_walk", TORCH_BOX(&BlindWalkOp<run_cpu>::call));
}

}  // namespace pydrift
