// Blind Walk: steps along a fixed direction until the predicted label changes. No torch.
#pragma once

#include "boundary/walk_state_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

struct BlindWalk {
  static constexpr bool kNeedsGradient = false;
  static constexpr bool kHasDirection = true;

  PYDRIFT_INLINE static bool has_crossed(int32_t prediction, int32_t label) { return prediction != label; }

  // Of a group: the image as it is after each walk's steps.
  struct Place {
    Vec steps = {};

    Place(const WalkSlot* slots, int32_t num_lanes) {
      for (int32_t lane = 0; lane < num_lanes; ++lane) steps[lane] = static_cast<float>(slots[lane].steps);
    }

    PYDRIFT_INLINE Vec value(const BoundaryTask& task, const WalkState& state, int64_t at) const {
      return clamped(load(state.image + at) + steps * load(state.other + at), task.lower, task.upper);
    }
  };

  // Of one walk; `state` is its lane's.
  static float value(const BoundaryTask& task, const WalkSlot& slot, const WalkState& state, int64_t at) {
    const float moved = state.image[at] + static_cast<float>(slot.steps) * state.other[at];
    return clamped(moved, task.lower, task.upper);
  }
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
