// What one thread needs to run some models over a block of samples, as plain pointers. No torch.
#pragma once

#include "common/simd.h"
#include "network/program/plan.h"
#include "statistics/shadow_statistics_task.h"

namespace pydrift {

// Samples are cut into blocks, a block into slices of Plan::num_slots() samples, and a slice into groups: one vector.
struct ShadowWorker {
  const ShadowTask* task;
  const PlanView* plan;
  const float* weights;  // [num_models][num_weights]: packed for the plan, of models from first_model on
  int64_t num_weights;
  int64_t first_model, num_models;
  int64_t first_sample;
  int32_t num_samples;    // of the block
  float* shared;          // [slices][shared_floats] where the images lie there, else [shared_floats]
  int64_t shared_floats;  // Plan::shared_floats
  float* group;           // [Plan::group_floats], zero
  float* images;          // [groups][values][lanes] where they do not lie in `shared`
};

// The loop for an instruction set, and the sizes that its plan must have.
struct ShadowVariant {
  int32_t lanes;
  int32_t rows;
  void (*run)(const ShadowWorker&);
};

namespace scalar {
extern const ShadowVariant kShadowVariant;
}
namespace avx2 {
extern const ShadowVariant kShadowVariant;
}
namespace avx512 {
extern const ShadowVariant kShadowVariant;
}

inline const ShadowVariant& shadow_variant(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::kAvx512) return avx512::kShadowVariant;
  if (simd == Simd::kAvx2) return avx2::kShadowVariant;
#endif
  return scalar::kShadowVariant;
}

}  // namespace pydrift
