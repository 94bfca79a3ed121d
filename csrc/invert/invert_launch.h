// What the launcher of the fused inversion decides before it launches. Host code without torch or CUDA.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "arch/team_launch.h"
#include "arch/team_planner.h"
#include "invert/invert_task.h"

namespace pydrift {

// What decides how the work is cut up. No result depends on it.
struct InvertShape {
  int32_t num_slots;     // of a team
  int32_t num_threads;   // of a team
  int32_t cluster_size;  // teams that divide the linear layers of a model among them
  int32_t max_clusters;  // more restarts than these have slots for queue up
  int64_t shared_limit;  // floats of shared memory that a team may use
};

// The restarts of each model, and the clusters that take them.
struct InvertQueues {
  std::vector<int32_t> queue;          // [N]
  std::vector<int32_t> queue_begin;    // [M + 1]
  std::vector<int32_t> cluster_model;  // [L]
};

inline InvertQueues make_queues(const int32_t* model, int64_t num_samples, int64_t num_models) {
  InvertQueues made;
  made.queue_begin.assign(num_models + 1, 0);
  for (int64_t n = 0; n < num_samples; ++n) ++made.queue_begin[model[n] + 1];
  for (int64_t m = 0; m < num_models; ++m) made.queue_begin[m + 1] += made.queue_begin[m];
  std::vector<int32_t> next(made.queue_begin.begin(), made.queue_begin.end() - 1);
  made.queue.resize(num_samples);
  for (int64_t n = 0; n < num_samples; ++n) made.queue[next[model[n]]++] = static_cast<int32_t>(n);
  return made;
}

// Clusters for each model: as many as fill their slots; if those are too many, its share of them, and one at least.
inline std::vector<int64_t> share_clusters(const InvertQueues& queues, const InvertShape& shape) {
  const int32_t num_slots = shape.num_slots * shape.cluster_size;
  std::vector<int64_t> counts;
  int64_t all_wanted = 0;
  for (size_t m = 0; m + 1 < queues.queue_begin.size(); ++m) {
    counts.push_back((queues.queue_begin[m + 1] - queues.queue_begin[m] + num_slots - 1) / num_slots);
    all_wanted += counts.back();
  }
  if (all_wanted <= shape.max_clusters) return counts;
  for (int64_t& count : counts) {
    if (count > 0) count = std::max<int64_t>(1, count * shape.max_clusters / all_wanted);
  }
  return counts;
}

inline void assign_clusters(InvertQueues& queues, const InvertShape& shape) {
  const std::vector<int64_t> counts = share_clusters(queues, shape);
  for (size_t m = 0; m < counts.size(); ++m) {
    queues.cluster_model.insert(queues.cluster_model.end(), counts[m], static_cast<int32_t>(m));
  }
}

// In units of what a slot costs in a step: how long all restarts take if none stops early.
inline int64_t time_of(const InvertQueues& queues, const InvertShape& shape) {
  constexpr int64_t kCostOfStep = 2;  // barriers and weights, whatever the number of slots
  const std::vector<int64_t> counts = share_clusters(queues, shape);
  int64_t num_clusters = 0, rounds = 0;
  for (size_t m = 0; m < counts.size(); ++m) {
    const int64_t num_restarts = queues.queue_begin[m + 1] - queues.queue_begin[m];
    const int64_t num_slots = counts[m] * shape.num_slots * shape.cluster_size;
    if (num_slots > 0) rounds = std::max(rounds, (num_restarts + num_slots - 1) / num_slots);
    num_clusters += counts[m];
  }
  const int64_t waves = (num_clusters + shape.max_clusters - 1) / shape.max_clusters;
  return waves * rounds * (shape.num_slots + kCostOfStep);
}

inline int32_t choose_cluster_size(const Program& program, const InvertQueues& queues) {
  int64_t most_restarts = 0;
  for (size_t m = 0; m + 1 < queues.queue_begin.size(); ++m) {
    most_restarts = std::max<int64_t>(most_restarts, queues.queue_begin[m + 1] - queues.queue_begin[m]);
  }
  return cluster_size_for(program, most_restarts);
}

inline InvertShape choose_shape(const InvertQueues& queues, int32_t cluster_size, int32_t max_clusters,
                                int64_t shared_limit) {
  constexpr int32_t kMaxSlots = 32;
  InvertShape best{1, kMaxTeamThreads, cluster_size, max_clusters, shared_limit};
  for (InvertShape shape = best; shape.num_slots <= kMaxSlots; ++shape.num_slots) {
    if (time_of(queues, shape) < time_of(queues, best)) best = shape;
  }
  return best;
}

inline InvertPlan make_invert_plan(const InvertTask& task, const InvertShape& shape) {
  InvertPlan plan;
  const int64_t slots = shape.num_slots, image_size = task.program->input.size() * slots;
  std::vector<TeamRequest> requests = {
      {&plan.slots, static_cast<int64_t>((sizeof(Slot) * slots + 3) / 4), 1000.0},
      {&plan.phases, kNumPhaseWords, 1000.0},
      {&plan.image, image_size, 8.0},
      {&plan.first_moment, image_size, 3.0},
      {&plan.second_moment, image_size, 3.0},
  };
  try {
    static_cast<TeamPlan&>(plan) =
        TeamPlanner(*task.program, true, task.arithmetic, shape.num_slots, shape.shared_limit, requests).take();
  } catch (const std::invalid_argument& error) {
    refuse("invert: ", error.what());
  }
  return plan;
}

// All that the kernel needs to know except where its memory is.
inline InvertArguments make_arguments(const InvertTask& task, const InvertPlan& plan) {
  InvertArguments made{};
  made.network = make_network(plan, task.parameters, task.num_models, task.program->num_parameters);
  made.x = task.x;
  made.label = task.label, made.restart = task.restart;
  made.confidence = task.confidence, made.loss = task.loss, made.steps = task.steps;
  made.workspace_size = plan.workspace_size, made.shared_size = plan.shared_size;
  made.seed = task.seed, made.jitter = task.jitter, made.max_steps = task.max_steps;
  made.slots = plan.slots, made.phases = plan.phases, made.image = plan.image, made.logits = plan.logits;
  made.first_moment = plan.first_moment, made.second_moment = plan.second_moment;
  made.input = plan.input, made.input_gradient = plan.input_gradient;
  made.seed_sink = plan.seed_sink;
  made.ascent = task.ascent;
  return made;
}

}  // namespace pydrift
