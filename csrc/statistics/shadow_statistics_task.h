// The task of pydrift::shadow_statistics, shadow_moments or shadow_logits, as plain pointers. No torch.
#pragma once

#include <cstdint>

#include "network/program/arithmetic.h"
#include "network/program/program.h"

namespace pydrift {

enum Side { kOut, kIn, kNumSides };  // whether a sample was in a model's training set

// Outputs of shadow_statistics, [models, samples] each; null for the others.
struct ShadowStatistics {
  float* margin;
  float* loss;
  float* confidence;
  int32_t* prediction;
};

// Outputs of shadow_moments, [kNumSides, samples] each; null for the others.
struct ShadowMoments {
  int32_t* count;
  float* mean;
  float* m2;
};

struct ShadowTask {
  const Program* program;
  const uint8_t* bytes;     // [N, C, H, W], read as value / 255; or
  const float* values;      // [N, C, H, W]
  const float* parameters;  // [K, P]
  const int32_t* label;     // [N], in [0, classes); null for the logits
  const bool* member;       // [K, N], for the moments
  int64_t num_models;
  int64_t num_samples;
  ShadowStatistics statistics;
  ShadowMoments moments;
  float* logits;  // output of shadow_logits, [K, N, classes]; null for the others
  Arithmetic arithmetic;
};

}  // namespace pydrift
