// Where the walks of a group are, one per lane. No torch.
#pragma once

#include "boundary/boundary_walks_worker.h"
#include "network/cpu/network_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// [values] vectors each.
struct WalkState {
  float* image;
  float* other;
};

PYDRIFT_INLINE Vec clamped(Vec v, float lower, float upper) {
  return v < lower ? all(lower) : (v > upper ? all(upper) : v);
}

PYDRIFT_INLINE float clamped(float v, float lower, float upper) { return v < lower ? lower : (v > upper ? upper : v); }

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
