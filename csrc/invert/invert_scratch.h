// The memory of a thread that inverts. No torch.
#pragma once

#include "common/scratch.h"
#include "invert/invert_worker.h"

namespace pydrift {

inline ScratchLayout<InvertWorker> invert_scratch(const Plan& plan, const LayerShape& image) {
  ScratchLayout<InvertWorker> scratch;
  scratch.add(&InvertWorker::shared, plan.shared_floats);
  scratch.add(&InvertWorker::group, plan.group_floats);
  scratch.add(&InvertWorker::codes, kMaxGroups * plan.code_bytes);
  scratch.add(&InvertWorker::slots, plan.num_slots());
  scratch.add(&InvertWorker::states, 3 * plan.num_slots() * image.size());
  scratch.add(&InvertWorker::gradient, plan.lanes * image.size());
  scratch.add(&InvertWorker::line, 2 * plan.lanes * image.width);
  return scratch;
}

}  // namespace pydrift
