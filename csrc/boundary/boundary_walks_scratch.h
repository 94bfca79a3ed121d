// The memory of a thread that walks. No torch.
#pragma once

#include "boundary/boundary_walks_worker.h"
#include "common/scratch.h"

namespace pydrift {

inline ScratchLayout<WalkWorker> walk_scratch(const Plan& plan, const LayerShape& image) {
  ScratchLayout<WalkWorker> scratch;
  scratch.add(&WalkWorker::shared, plan.shared_floats);
  scratch.add(&WalkWorker::group, plan.group_floats);
  scratch.add(&WalkWorker::codes, kMaxGroups * plan.code_bytes);
  scratch.add(&WalkWorker::slots, plan.num_slots());
  scratch.add(&WalkWorker::states, 2 * plan.num_slots() * image.size());
  return scratch;
}

}  // namespace pydrift
