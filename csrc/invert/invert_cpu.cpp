// invert on the CPU: blocks of restarts in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "invert/invert.h"
#include "invert/invert_worker.h"
#include "network/cpu/model_queue.h"

namespace pydrift {
namespace {

// The memory of one thread.
class Scratch {
 public:
  Scratch(const Plan& plan, const LayerShape& image)
      : shared_(layout_.reserve<float>(plan.shared_floats)),
        group_(layout_.reserve<float>(plan.group_floats)),
        codes_(layout_.reserve<uint8_t>(kMaxGroups * plan.code_bytes)),
        slots_(layout_.reserve<InvertSlot>(plan.num_slots())),
        states_(layout_.reserve<float>(3 * plan.num_slots() * image.size())),
        gradient_(layout_.reserve<float>(plan.lanes * image.size())),
        line_(layout_.reserve<float>(2 * plan.lanes * image.width)),
        memory_(layout_.size()) {}

  void lend(InvertWorker& worker) const {
    worker.shared = memory_.at<float>(shared_);
    worker.group = memory_.at<float>(group_);
    worker.codes = memory_.at<uint8_t>(codes_);
    worker.slots = memory_.at<InvertSlot>(slots_);
    worker.states = memory_.at<float>(states_);
    worker.gradient = memory_.at<float>(gradient_);
    worker.line = memory_.at<float>(line_);
  }

 private:
  Layout layout_;  // before what is reserved
  size_t shared_, group_, codes_, slots_, states_, gradient_, line_;
  Memory memory_;
};

Plan plan_for(const Program& program, const InvertVariant& variant) {
  try {
    return make_plan(program, variant.lanes, variant.rows, Passes::kInputGradient, /*winograd=*/true);
  } catch (const std::invalid_argument& error) {
    refuse("invert: ", error.what());
  }
}

void run_cpu(const InvertTask& task, int32_t /*device_index*/) {
  const int64_t num_samples = task.num_samples;
  check_range("invert", "model", task.model, num_samples, task.num_models);
  check_range("invert", "label", task.label, num_samples, task.program->num_classes());
  check_range("invert", "restart", task.restart, num_samples, kMaxRestarts);
  const InvertVariant& variant = invert_variant(chosen_simd());
  const Plan plan = plan_for(*task.program, variant);
  const PlanView view(plan);
  ModelQueues queues(plan, task.model, num_samples, task.num_models);

  // All memory before the threads: a failure in one of them could not be thrown through torch.
  const int64_t num_threads =
      std::min<int64_t>(torch::stable::get_num_threads(), divide_up<int64_t>(num_samples, variant.lanes));
  const int64_t threads_per_model = std::max<int64_t>(1, num_threads / task.num_models);
  std::vector<std::unique_ptr<Scratch>> scratch;
  for (int64_t i = 0; i < num_threads; ++i) scratch.push_back(std::make_unique<Scratch>(plan, task.program->input));

  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      const auto run = [&](ModelQueue& queue, const float* weights) {
        InvertWorker worker{};
        worker.task = &task;
        worker.plan = &view;
        worker.weights = weights;
        worker.next = ModelQueue::take;
        worker.queue = &queue;
        worker.code_bytes = plan.code_bytes;
        worker.num_slots = choose_slots(plan, static_cast<int64_t>(queue.items.size()), threads_per_model);
        scratch[thread]->lend(worker);
        variant.run(worker);
      };
      queues.serve(thread, num_threads, task.parameters, task.program->num_parameters, run);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("invert", TORCH_BOX(&invert<run_cpu>)); }

}  // namespace pydrift
