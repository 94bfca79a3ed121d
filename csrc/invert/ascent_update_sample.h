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

// The ascent direction before the optimizer: gradient minus that of the priors, from the x around each pixel.
struct AscentPlane {
  const AscentConstants constants;
  const int32_t height, width;
  const float* x;
  const float* gradient;
  float* __restrict__ ascent;

  PYDRIFT_INLINE void set(int32_t i, int32_t up, int32_t down, int32_t left, int32_t right) const {
    ascent[i] = gradient[i] - prior_gradient(constants, x[i], x[up], x[down], x[left], x[right]);
  }

  PYDRIFT_INLINE void set_row(int32_t begin, int32_t up, int32_t down) const {
    const int32_t last = width - 1;
    for (int32_t c = 1; c < last; ++c) set(begin + c, up + c, down + c, begin + c - 1, begin + c + 1);
    set(begin, up, down, begin, begin + (last > 0 ? 1 : 0));
    set(begin + last, up + last, down + last, begin + (last > 0 ? last - 1 : 0), begin + last);
  }

  // The rows between the first and the last are computed as one line. Its border columns get wrong neighbours, so they
  // are computed again.
  PYDRIFT_INLINE void set_all() const {
    const int32_t last_row = (height - 1) * width;
    set_row(0, 0, height > 1 ? width : 0);
    for (int32_t i = width; i < last_row; ++i) set(i, i - width, i + width, i - 1, i + 1);
    for (int32_t i = width; i < last_row; i += width) {
      const int32_t end = i + width - 1;
      set(i, i - width, i + width, i, width > 1 ? i + 1 : i);
      set(end, end - width, end + width, width > 1 ? end - 1 : end, end);
    }
    if (height > 1) set_row(last_row, last_row - width, last_row);
  }
};

template <Optimizer kOptimizer>
PYDRIFT_INLINE void move_pixels(AscentConstants constants, AscentStep step, int32_t num_values,
                                const float* __restrict__ ascent, float* __restrict__ first, float* __restrict__ second,
                                float* __restrict__ x) {
  for (int32_t i = 0; i < num_values; ++i) {
    update_moments<kOptimizer>(constants, ascent[i], first[i], second[i]);
    x[i] = ascend<kOptimizer>(constants, step.step_size, step.second_scale, x[i], first[i], second[i]);
  }
}

// scratch: [C, H, W], overwritten
PYDRIFT_INLINE void update_sample(const AscentTensors& tensors, const AscentConstants& constants, int64_t sample,
                                  float* scratch) {
  if (!tensors.active[sample]) return;
  const int32_t num_values = tensors.values_per_sample();
  const bool finite = all_finite(tensors.gradient + sample * num_values, num_values);
  const AscentStep step = begin_step(tensors, constants, sample, finite);
  if (!step.taken) return;
  const int64_t begin = sample * num_values;
  const int32_t plane = tensors.height * tensors.width;
  for (int32_t i = 0; i < num_values; i += plane) {
    const float *x = tensors.x + begin + i, *gradient = tensors.gradient + begin + i;
    AscentPlane{constants, tensors.height, tensors.width, x, gradient, scratch + i}.set_all();
  }
  float *x = tensors.x + begin, *first = tensors.first_moment + begin, *second = tensors.second_moment + begin;
  if (constants.optimizer == Optimizer::kAdam) {
    move_pixels<Optimizer::kAdam>(constants, step, num_values, scratch, first, second, x);
  } else {
    move_pixels<Optimizer::kMomentum>(constants, step, num_values, scratch, first, second, x);
  }
}

inline void update_sample_scalar(const AscentTensors& tensors, const AscentConstants& constants, int64_t sample,
                                 float* scratch) {
  update_sample(tensors, constants, sample, scratch);
}

PYDRIFT_TARGET_AVX2 inline void update_sample_avx2(const AscentTensors& tensors, const AscentConstants& constants,
                                                   int64_t sample, float* scratch) {
  update_sample(tensors, constants, sample, scratch);
}

PYDRIFT_TARGET_AVX512 inline void update_sample_avx512(const AscentTensors& tensors, const AscentConstants& constants,
                                                       int64_t sample, float* scratch) {
  update_sample(tensors, constants, sample, scratch);
}

using UpdateSample = void (*)(const AscentTensors&, const AscentConstants&, int64_t sample, float* scratch);

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
