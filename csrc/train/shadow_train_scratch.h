// The memory of a thread that trains a model: the model's numbers, and the network's. No torch.
#pragma once

#include <algorithm>

#include "common/scratch.h"
#include "train/shadow_train_worker.h"

namespace pydrift {

// What the weight gradients of linear layers need (network/cpu/linear_lanes.h).
inline int64_t gradient_scratch_floats(const Plan& plan) {
  int64_t widest = 0;
  for (const Stage& stage : plan.stages) {
    if (stage.kind == StageKind::kLinear) widest = std::max<int64_t>(widest, stage.out.channels);
  }
  return (widest + plan.num_slots()) * plan.num_slots();
}

inline ScratchLayout<ShadowTrainWorker> shadow_train_scratch(const Plan& plan, int64_t num_parameters,
                                                             TrainOptimizer optimizer) {
  ScratchLayout<ShadowTrainWorker> scratch;
  scratch.add(&ShadowTrainWorker::parameters, num_parameters);
  scratch.add(&ShadowTrainWorker::gradients, num_parameters);
  scratch.add(&ShadowTrainWorker::first_moment, num_parameters);
  if (optimizer == TrainOptimizer::kAdam) scratch.add(&ShadowTrainWorker::second_moment, num_parameters);
  scratch.add(&ShadowTrainWorker::weights, plan.num_weights);
  scratch.add(&ShadowTrainWorker::shared, plan.shared_floats);
  scratch.add(&ShadowTrainWorker::groups, kMaxGroups * plan.group_floats);
  scratch.add(&ShadowTrainWorker::codes, kMaxGroups * plan.code_bytes);
  scratch.add(&ShadowTrainWorker::scratch, gradient_scratch_floats(plan));
  return scratch;
}

}  // namespace pydrift
