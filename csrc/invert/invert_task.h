// The task of pydrift::invert, as plain pointers. No torch.
#pragma once

#include <cstdint>

#include "invert/ascent_update_math.h"
#include "network/program/arithmetic.h"
#include "network/program/program.h"

namespace pydrift {

inline constexpr int32_t kMaxRestarts = 1 << 16;  // restart and label share a word of the noise's counter

struct InvertTask {
  const Program* program;
  const float* parameters;  // [M, P]
  float* x;                 // [N, C, H, W]; starts, then results
  const int32_t* model;     // [N], in [0, M)
  const int32_t* label;     // [N], in [0, K)
  const int32_t* restart;   // [N], in [0, kMaxRestarts)
  float* confidence;        // [N]
  float* loss;              // [N]
  int32_t* steps;           // [N]
  int64_t num_models;
  int64_t num_samples;
  uint64_t seed;
  int32_t jitter;
  int32_t max_steps;
  AscentConstants ascent;
  Arithmetic arithmetic;

  int32_t values_per_sample() const { return static_cast<int32_t>(program->input.size()); }
};

}  // namespace pydrift
