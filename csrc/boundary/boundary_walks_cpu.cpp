// min_gd and blind_walk on the CPU: blocks of walks in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "boundary/boundary_walks.h"
#include "boundary/boundary_walks_worker.h"
#include "network/cpu/model_queue.h"

namespace pydrift {
namespace {

// The memory of one thread.
class Scratch {
 public:
  Scratch(const Plan& plan, int64_t num_values)
      : shared_(layout_.reserve<float>(plan.shared_floats)),
        group_(layout_.reserve<float>(plan.group_floats)),
        codes_(layout_.reserve<uint8_t>(kMaxGroups * plan.code_bytes)),
        slots_(layout_.reserve<WalkSlot>(plan.num_slots())),
        states_(layout_.reserve<float>(2 * plan.num_slots() * num_values)),
        memory_(layout_.size()) {}

  void lend(WalkWorker& worker) const {
    worker.shared = memory_.at<float>(shared_);
    worker.group = memory_.at<float>(group_);
    worker.codes = memory_.at<uint8_t>(codes_);
    worker.slots = memory_.at<WalkSlot>(slots_);
    worker.states = memory_.at<float>(states_);
  }

 private:
  Layout layout_;  // before what is reserved
  size_t shared_, group_, codes_, slots_, states_;
  Memory memory_;
};

void run_cpu(const BoundaryTask& task, const char* op, int32_t /*device_index*/) {
  check_range(op, "model", task.model, task.num_walks, task.num_models);
  check_range(op, "image", task.image, task.num_walks, task.num_images);
  check_range(op, "label", task.label, task.num_walks, task.program->num_classes());
  check_range(op, "norm", task.norm, task.num_walks, kNumNorms);
  const bool blind = task.is_blind();
  if (blind) check_range(op, "direction", task.direction, task.num_walks, task.num_directions);
  const WalkVariant& variant = walk_variant(chosen_simd());
  const auto plan_for = [&] {
    try {
      const Passes passes = blind ? Passes::kForward : Passes::kInputGradient;
      return make_plan(*task.program, variant.lanes, variant.rows, passes, /*winograd=*/true);
    } catch (const std::invalid_argument& error) {
      refuse(op, ": ", error.what());
    }
  };
  const Plan plan = plan_for();
  const PlanView view(plan);
  ModelQueues queues(plan, task.model, task.num_walks, task.num_models);
  for (ModelQueue& queue : queues.all()) {  // lanes of one norm do the work of no other
    std::stable_sort(queue.items.begin(), queue.items.end(),
                     [&](int64_t a, int64_t b) { return task.norm[a] < task.norm[b]; });
  }

  // All memory before the threads: a failure in one of them could not be thrown through torch.
  const int64_t num_threads =
      std::min<int64_t>(torch::stable::get_num_threads(), divide_up<int64_t>(task.num_walks, variant.lanes));
  const int64_t threads_per_model = std::max<int64_t>(1, num_threads / task.num_models);
  std::vector<std::unique_ptr<Scratch>> scratch;
  for (int64_t i = 0; i < num_threads; ++i) scratch.push_back(std::make_unique<Scratch>(plan, task.values_per_image()));

  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      const auto run = [&](ModelQueue& queue, const float* weights) {
        WalkWorker worker{};
        worker.task = &task;
        worker.plan = &view;
        worker.weights = weights;
        worker.next = ModelQueue::take;
        worker.queue = &queue;
        worker.code_bytes = plan.code_bytes;
        worker.num_slots = choose_slots(plan, static_cast<int64_t>(queue.items.size()), threads_per_model);
        scratch[thread]->lend(worker);
        (blind ? variant.blind_walk : variant.min_gd)(worker);
      };
      queues.serve(thread, num_threads, task.parameters, task.program->num_parameters, run);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) {
  m.impl("min_gd", TORCH_BOX(&min_gd<run_cpu>));
  m.impl("blind_walk", TORCH_BOX(&blind_walk<run_cpu>));
}

}  // namespace pydrift
