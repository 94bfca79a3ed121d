// The memory of a thread that runs models over a block of samples. No torch.
#pragma once

#include "common/scratch.h"
#include "statistics/shadow_statistics_worker.h"

namespace pydrift {

// num_samples: of the largest block. Where the network begins flat, its images lie in the maps.
inline ScratchLayout<ShadowWorker> shadow_statistics_scratch(const Plan& plan, const LayerShape& image,
                                                             int64_t num_samples) {
  const bool flat = plan.input.all_groups;
  const int64_t num_slices = flat ? divide_up<int64_t>(num_samples, plan.num_slots()) : 1;
  const int64_t num_image_lanes = flat ? 0 : divide_up<int64_t>(num_samples, plan.lanes) * plan.lanes;
  ScratchLayout<ShadowWorker> scratch;
  scratch.add(&ShadowWorker::shared, plan.shared_floats * num_slices);
  scratch.add(&ShadowWorker::group, plan.group_floats);
  scratch.add(&ShadowWorker::images, num_image_lanes * image.size());
  return scratch;
}

}  // namespace pydrift
