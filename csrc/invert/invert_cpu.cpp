// invert on the CPU: blocks of restarts in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "common/memory.h"
#include "invert/invert.h"
#include "invert/invert_worker.h"

namespace pydrift {
namespace {

// The restarts of one model that no thread has taken yet.
struct Queue {
  std::vector<int64_t> samples;
  std::atomic<int64_t> next{0};
  std::unique_ptr<Memory> weights;  // packed by the first thread that comes
  std::once_flag packed;
};

int64_t take_next(void* queue) {
  Queue& q = *static_cast<Queue*>(queue);
  const int64_t i = q.next.fetch_add(1, std::memory_order_relaxed);
  return i < static_cast<int64_t>(q.samples.size()) ? q.samples[i] : -1;
}

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

// Places of a block: a thread's share of the restarts in as few blocks as will hold it, and these about equally full.
int32_t choose_slots(const Plan& plan, int64_t num_restarts, int64_t num_threads) {
  const int64_t groups = std::max<int64_t>(1, divide_up<int64_t>(num_restarts, plan.lanes * num_threads));
  return static_cast<int32_t>(plan.lanes * divide_up<int64_t>(groups, divide_up<int64_t>(groups, kMaxGroups)));
}

Plan plan_for(const Program& program, const InvertVariant& variant) {
  try {
    return make_plan(program, variant.lanes, variant.rows, Passes::kInputGradient);
  } catch (const std::invalid_argument& error) {
    refuse("invert: ", error.what());
  }
}

void run_cpu(const InvertTask& task, int32_t /*device_index*/) {
  const int64_t num_samples = task.num_samples;
  check_range("model", task.model, num_samples, task.num_models);
  check_range("label", task.label, num_samples, task.program->num_classes());
  check_range("restart", task.restart, num_samples, kMaxRestarts);
  const InvertVariant& variant = invert_variant(chosen_simd());
  const Plan plan = plan_for(*task.program, variant);
  const PlanView view(plan);
  std::vector<Queue> queues(task.num_models);
  for (int64_t n = 0; n < num_samples; ++n) queues[task.model[n]].samples.push_back(n);

  // All memory before the threads: a failure in one of them could not be thrown through torch.
  const int64_t num_threads =
      std::min<int64_t>(torch::stable::get_num_threads(), divide_up<int64_t>(num_samples, variant.lanes));
  const int64_t threads_per_model = std::max<int64_t>(1, num_threads / task.num_models);
  std::vector<std::unique_ptr<Scratch>> scratch;
  for (int64_t i = 0; i < num_threads; ++i) scratch.push_back(std::make_unique<Scratch>(plan, task.program->input));
  for (Queue& queue : queues) {
    if (!queue.samples.empty()) queue.weights = std::make_unique<Memory>(sizeof(float) * plan.num_weights);
  }

  // A thread begins with models of its own and then helps with the others'.
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t i = 0; i < task.num_models; ++i) {
        const int64_t model = (i + thread * task.num_models / num_threads) % task.num_models;
        Queue& queue = queues[model];
        if (queue.next >= static_cast<int64_t>(queue.samples.size())) continue;
        const float* parameters = task.parameters + model * task.program->num_parameters;
        float* weights = queue.weights->at<float>(0);
        std::call_once(queue.packed, [&] { pack_weights(plan, parameters, weights); });
        InvertWorker worker{};
        worker.task = &task;
        worker.plan = &view;
        worker.weights = weights;
        worker.next = take_next;
        worker.queue = &queue;
        worker.code_bytes = plan.code_bytes;
        worker.num_slots = choose_slots(plan, static_cast<int64_t>(queue.samples.size()), threads_per_model);
        scratch[thread]->lend(worker);
        variant.run(worker);
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("invert", TORCH_BOX(&invert<run_cpu>)); }

}  // namespace pydrift
