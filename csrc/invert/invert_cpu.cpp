// invert on the CPU: blocks of restarts in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include "invert/invert.h"
#include "invert/invert_scratch.h"
#include "network/cpu/model_queue.h"

namespace pydrift {
namespace {

void run_cpu(const InvertTask& task, int32_t /*device_index*/) {
  const int64_t num_samples = task.num_samples;
  check_range("invert", "model", task.model, num_samples, task.num_models);
  check_range("invert", "label", task.label, num_samples, task.program->num_classes());
  check_range("invert", "restart", task.restart, num_samples, kMaxRestarts);
  const Variant<InvertWorker>& variant = VariantTable<InvertWorker>::of(chosen_simd());
  const Plan plan = refuse_as("invert", [&] {
    return make_plan(*task.program, variant.lanes, variant.rows, Passes::kInputGradient, /*winograd=*/true);
  });
  ModelQueues queues(plan, task.model, num_samples, task.num_models);
  const int64_t num_threads = threads_for(plan, num_samples, torch::stable::get_num_threads());
  const ScratchPool<InvertWorker> scratch(invert_scratch(plan, task.program->input), num_threads);
  const QueueRun<InvertTask, InvertWorker> run(task, plan, variant, scratch, queues, num_threads);
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) run(thread);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("invert", TORCH_BOX(&InvertOp<run_cpu>::call)); }

}  // namespace pydrift
