// ascent_update on the GPU: one block per sample. No torch; also compiled and executed on the host by the tests.
#pragma once

#include "invert/ascent_update_math.h"

namespace pydrift {

// The moments of one pixel, from the old x around it.
template <Optimizer kOptimizer>
PYDRIFT_HD void update_moments_at(const AscentTensors& tensors, const AscentConstants& constants, const float* x,
                                  int64_t sample_begin, int32_t pixel) {
  const int32_t width = tensors.width, height = tensors.height;
  const int32_t column = pixel % width, row = pixel / width % height;
  const float here = x[pixel];
  const float up = row > 0 ? x[pixel - width] : here;
  const float down = row + 1 < height ? x[pixel + width] : here;
  const float left = column > 0 ? x[pixel - 1] : here;
  const float right = column + 1 < width ? x[pixel + 1] : here;
  const int64_t i = sample_begin + pixel;
  const float gradient = tensors.gradient[i] - prior_gradient(constants, here, up, down, left, right);
  update_moments<kOptimizer>(constants, gradient, tensors.first_moment[i], tensors.second_moment[i]);
}

// Any one-dimensional grid and block. What decides about a barrier is the same for all threads of a block.
template <Optimizer kOptimizer>
__global__ void ascent_update_kernel(AscentTensors tensors, AscentConstants constants) {
  __shared__ AscentStep step;
  const int32_t num_values = tensors.values_per_sample();
  const int32_t thread = static_cast<int32_t>(threadIdx.x), num_threads = static_cast<int32_t>(blockDim.x);
  for (int64_t sample = blockIdx.x; sample < tensors.num_samples; sample += gridDim.x) {
    if (!tensors.active[sample]) continue;
    const int64_t begin = sample * num_values;
    float* x = tensors.x + begin;

    // Stop or go, for the whole sample
    int32_t num_bad = 0;
    for (int32_t pixel = thread; pixel < num_values; pixel += num_threads) {
      if (!is_finite(tensors.gradient[begin + pixel])) num_bad = 1;
    }
    num_bad = __syncthreads_or(num_bad);  // also: all have read active[sample] and are done with the last sample's step
    if (thread == 0) step = begin_step(tensors, constants, sample, num_bad == 0);
    __syncthreads();
    if (!step.taken) continue;

    // All moments from the old x, then all x
    for (int32_t pixel = thread; pixel < num_values; pixel += num_threads) {
      update_moments_at<kOptimizer>(tensors, constants, x, begin, pixel);
    }
    __syncthreads();
    for (int32_t pixel = thread; pixel < num_values; pixel += num_threads) {
      const int64_t i = begin + pixel;
      x[pixel] = ascend<kOptimizer>(constants, step.step_size, step.second_scale, x[pixel], tensors.first_moment[i],
                                    tensors.second_moment[i]);
    }
  }
}

}  // namespace pydrift
