// Reductions over the lanes of a warp; all lanes get the result. No torch.
#pragma once

#include <cmath>

#include "network/cuda/block.cuh"

namespace pydrift {

// Always in the same order.
template <class T>
__device__ T add_lanes(T value) {
  for (int32_t lane = kWarpSize / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
  return value;
}

// Ignores NaN.
__device__ inline float largest_of_lanes(float value) {
  for (int32_t lane = kWarpSize / 2; lane > 0; lane /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, lane);
    if (other > value) value = other;
  }
  return value;
}

// The class of the largest logit: a NaN is the largest of all, and of equals the first is taken, as in torch.
struct Leader {
  float logit = 0.0f;
  int32_t label = -1;  // none

  __device__ void offer(float other_logit, int32_t other_label) {
    if (other_label < 0) return;
    const bool is_nan = logit != logit, other_is_nan = other_logit != other_logit;
    const bool equal = other_logit == logit || (is_nan && other_is_nan);
    const bool larger = other_logit > logit || (other_is_nan && !is_nan);
    if (label < 0 || larger || (equal && other_label < label)) logit = other_logit, label = other_label;
  }

  __device__ void join_lanes() {
    for (int32_t lane = kWarpSize / 2; lane > 0; lane /= 2) {
      const float other_logit = __shfl_xor_sync(0xffffffffu, logit, lane);
      const int32_t other_label = __shfl_xor_sync(0xffffffffu, label, lane);
      offer(other_logit, other_label);
    }
  }
};

}  // namespace pydrift
