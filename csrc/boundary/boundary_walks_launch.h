// What the launcher of min_gd and blind_walk decides before it launches. Host code without torch or CUDA.
#pragma once

#include <vector>

#include "boundary/boundary_walks_plan.h"
#include "network/cuda/block_planner.h"

namespace pydrift {

inline WalkPlan make_walk_plan(const char* op, const BoundaryTask& task, const BlockShape& shape) {
  WalkPlan plan;
  const int64_t slots = shape.num_slots;
  std::vector<BlockRequest> requests = {
      {&plan.slots, static_cast<int64_t>((sizeof(WalkSlot) * slots + 3) / 4), 1000.0},
      {&plan.busy, kNumClusterWords, 1000.0},
  };
  if (!task.is_blind()) {
    requests.push_back({&plan.image, slots * task.values_per_image(), 16.0});  // read often for an l1 step
    requests.push_back({&plan.gradient, slots * task.values_per_image(), 16.0});
  }
  static_cast<BlockPlan&>(plan) = refuse_as(op, [&] {
    return BlockPlanner(*task.program, !task.is_blind(), /*one_model=*/true, Arithmetic::kFma, shape, requests).take();
  });
  return plan;
}

// The arguments of the kernel; its memory is set later.
inline WalkArguments make_arguments(const BoundaryTask& task, const WalkPlan& plan) {
  WalkArguments made{};
  made.network = make_network(plan, task.parameters, task.num_models, task.program->num_parameters);
  made.task = task;
  made.task.program = nullptr;
  made.workspace_size = plan.workspace_size, made.shared_size = plan.shared_size;
  made.slots = plan.slots, made.busy = plan.busy, made.logits = plan.logits;
  made.image = plan.image, made.gradient = plan.gradient;
  made.input = plan.input, made.input_gradient = plan.input_gradient;
  made.seed_sink = plan.seed_sink;
  return made;
}

}  // namespace pydrift
