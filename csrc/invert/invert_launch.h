// What the launcher of the fused inversion decides before it launches. Host code without torch or CUDA.
#pragma once

#include <vector>

#include "invert/invert_task.h"
#include "network/cuda/block_planner.h"
#include "network/cuda/block_queue.h"

namespace pydrift {

inline InvertPlan make_invert_plan(const InvertTask& task, const BlockShape& shape) {
  InvertPlan plan;
  const int64_t slots = shape.num_slots, image_size = task.program->input.size() * slots;
  std::vector<BlockRequest> requests = {
      {&plan.slots, static_cast<int64_t>((sizeof(Slot) * slots + 3) / 4), 1000.0},
      {&plan.phases, kNumClusterWords, 1000.0},
      {&plan.image, image_size, 8.0},
      {&plan.first_moment, image_size, 3.0},
      {&plan.second_moment, image_size, 3.0},
  };
  static_cast<BlockPlan&>(plan) = refuse_as("invert", [&] {
    return BlockPlanner(*task.program, /*back=*/true, /*one_model=*/true, task.arithmetic, shape, requests).take();
  });
  return plan;
}

// The arguments of the kernel; its memory is set later.
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
