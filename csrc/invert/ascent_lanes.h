// One ascent step of a group of restarts, one per lane: what ascent_update does for one of them. No torch.
#pragma once

#include "invert/ascent_update_math.h"
#include "network/cpu/network_lanes.h"

namespace pydrift {

template <>
struct PixelMath<PYDRIFT_LANES::Vec> {
  using Vec = PYDRIFT_LANES::Vec;

  PYDRIFT_INLINE static Vec square_root(Vec v) {
#if defined(__AVX512F__)
    return _mm512_maskz_sqrt_ps(0xffff, v);  // the plain one makes GCC 12 warn
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_sqrt_ps(v);
#else
    for (int32_t lane = 0; lane < PYDRIFT_LANES::kLanes; ++lane) v[lane] = sqrtf(v[lane]);
    return v;
#endif
  }

  PYDRIFT_INLINE static Vec clamped(Vec v, float lower, float upper) {
    return v < lower ? lower - Vec{} : (v > upper ? upper - Vec{} : v);
  }
};

namespace PYDRIFT_LANES {

// Images and moments, each [C][H][W] vectors without gaps.
struct AscentState {
  float *x, *first, *second;
};

// Of each lane, as AscentStep has them. A lane that takes no step keeps its x; its moments are no longer used.
struct AscentSteps {
  IntVec taken;
  Vec step_size, second_scale;
};

// NaN in the lanes of which any value of `gradient` [num_values] is not finite, 0 in the others.
inline Vec not_finite(const float* gradient, int32_t num_values) {
  Vec poison = {};
  for (int32_t i = 0; i < num_values; ++i) poison += load(gradient + i * kLanes) * 0.0f;
  return poison;
}

// gradient: [C][H][W] vectors. row: [W] vectors, overwritten: the x of the row above, as it was before the step
template <Optimizer kOptimizer>
inline void ascend_group(const AscentConstants& constants, const AscentSteps& steps, int32_t channels, int32_t height,
                         int32_t width, const AscentState& state, const float* gradient, float* row) {
  int64_t at = 0;
  const int64_t down = int64_t{width} * kLanes;
  for (int32_t c = 0; c < channels; ++c) {
    for (int32_t h = 0; h < height; ++h) {
      Vec left = load(state.x + at);
      for (int32_t w = 0; w < width; ++w, at += kLanes) {
        const Vec x = load(state.x + at);
        const Vec above = h > 0 ? load(row + w * kLanes) : x, below = h + 1 < height ? load(state.x + at + down) : x;
        const Vec right = w + 1 < width ? load(state.x + at + kLanes) : x;
        const Vec ascent = load(gradient + at) - prior_gradient(constants, x, above, below, left, right);
        Vec first = load(state.first + at), second = load(state.second + at);
        update_moments<kOptimizer>(constants, ascent, first, second);
        store(state.first + at, first);
        if constexpr (kOptimizer == Optimizer::kAdam) store(state.second + at, second);
        const Vec moved = ascend<kOptimizer>(constants, steps.step_size, steps.second_scale, x, first, second);
        store(state.x + at, steps.taken ? moved : x);
        store(row + w * kLanes, x);
        left = x;
      }
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
