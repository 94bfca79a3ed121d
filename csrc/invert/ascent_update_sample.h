// ascent_update of one sample on the CPU. No torch, so that the sanitizers can run it on its own.
#pragma once

#include "common/simd.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

PYDRIFT_INLINE bool all_finite(const float* values, int32_t num_values) {
  int32_t finite = 1;  // as wide as a float, so that the loop vectorises
  for (int32_t i = 0; i < num_values; ++i) finite &= is_finite(values[i]) ? 1 : 0;
  return finite != 0;
}

template <Optimizer kOptimizer>
PYDRIFT_INLINE void update_moment_row(const AscentOptions& options, int32_t width, const float* x, const float* up,
                                      const float* down, const float* gradient, float* __restrict__ first,
                                      float* __restrict__ second) {
  const auto update = [&](int32_t i, int32_t left, int32_t right) __attribute__((always_inline)) {
    const float prior = prior_gradient(options, x[i], up[i], down[i], x[left], x[right]);
    update_moments<kOptimizer>(options, gradient[i] - prior, first[i], second[i]);
  };
  const int32_t last = width - 1;
  update(0, 0, last > 0 ? 1 : 0);
  for (int32_t i = 1; i < last; ++i) update(i, i - 1, i + 1);
  if (last > 0) update(last, last - 1, last);
}

template <Optimizer kOptimizer>
PYDRIFT_INLINE void ascend_row(const AscentOptions& options, const AscentStep& step, int32_t width,
                               const float* __restrict__ first, const float* __restrict__ second,
                               float* __restrict__ x) {
  for (int32_t i = 0; i < width; ++i) x[i] = ascend<kOptimizer>(options, step, x[i], first[i], second[i]);
}

// The moments of row h see the old x of rows h - 1, h and h + 1; so row h - 1 ascends right after them, still in cache.
template <Optimizer kOptimizer>
PYDRIFT_INLINE void update_pixels(const AscentTensors& tensors, AscentOptions options, AscentStep step,
                                  int64_t sample) {
  const int32_t height = tensors.height, width = tensors.width;
  for (int32_t channel = 0; channel < tensors.num_channels; ++channel) {
    const int64_t plane = (sample * tensors.num_channels + channel) * height * width;
    float* x = tensors.x + plane;
    float* first = tensors.first_moment + plane;
    float* second = tensors.second_moment + plane;
    const auto ascend_at = [&](int64_t row) __attribute__((always_inline)) {
      ascend_row<kOptimizer>(options, step, width, first + row, second + row, x + row);
    };
    for (int32_t h = 0; h < height; ++h) {
      const int64_t row = static_cast<int64_t>(h) * width;
      const float* up = x + (h > 0 ? row - width : row);
      const float* down = x + (h + 1 < height ? row + width : row);
      update_moment_row<kOptimizer>(options, width, x + row, up, down, tensors.gradient + plane + row, first + row,
                                    second + row);
      if (h > 0) ascend_at(row - width);
    }
    ascend_at(static_cast<int64_t>(height - 1) * width);
  }
}

PYDRIFT_INLINE void update_sample(const AscentTensors& tensors, const AscentOptions& options, int64_t sample) {
  if (!tensors.active[sample]) return;
  const int32_t num_values = tensors.values_per_sample();
  const bool finite = all_finite(tensors.gradient + sample * num_values, num_values);
  const AscentStep step = begin_step(tensors, options, sample, finite);
  if (!step.taken) return;
  if (options.optimizer == Optimizer::kAdam) {
    update_pixels<Optimizer::kAdam>(tensors, options, step, sample);
  } else {
    update_pixels<Optimizer::kMomentum>(tensors, options, step, sample);
  }
}

inline void update_sample_scalar(const AscentTensors& tensors, const AscentOptions& options, int64_t sample) {
  update_sample(tensors, options, sample);
}

PYDRIFT_TARGET_AVX2 inline void update_sample_avx2(const AscentTensors& tensors, const AscentOptions& options,
                                                   int64_t sample) {
  update_sample(tensors, options, sample);
}

PYDRIFT_TARGET_AVX512 inline void update_sample_avx512(const AscentTensors& tensors, const AscentOptions& options,
                                                       int64_t sample) {
  update_sample(tensors, options, sample);
}

inline UpdateSample update_sample_for(Simd simd) {
  switch (simd) {
    case Simd::kAvx512:
      return update_sample_avx512;
    case Simd::kAvx2:
      return update_sample_avx2;
    default:
      return update_sample_scalar;
  }
}

}  // namespace pydrift
