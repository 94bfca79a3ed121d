// What one thread needs to train one model, as plain pointers. No torch.
#pragma once

#include "common/simd.h"
#include "network/program/plan.h"
#include "train/shadow_train_task.h"

namespace pydrift {

struct ShadowTrainWorker {
  const ShadowTrainTask* task;
  const Plan* plan;
  const PlanView* view;
  int64_t model;
  const int32_t* order;              // of this model
  const Augmentation* augmentation;  // of this model, or none
  const double* learning_rate;       // of this model
  float* parameters;                 // [P], a copy: near its moments, in large pages
  float* first_moment;               // [P]
  float* second_moment;              // [P]
  float* gradients;                  // [P]
  float* weights;                    // [Plan::num_weights]
  float* shared;                     // [Plan::shared_floats]
  float* groups;                     // [kMaxGroups][Plan::group_floats], borders zero
  uint8_t* codes;                    // [kMaxGroups][Plan::code_bytes]
  float* scratch;                    // [gradient_scratch_floats]
};

// The loop for an instruction set, and the sizes that its plan must have.
struct ShadowTrainVariant {
  int32_t lanes;
  int32_t rows;
  int64_t (*scratch_floats)(const PlanView&);
  void (*run)(const ShadowTrainWorker&);
};

namespace scalar {
extern const ShadowTrainVariant kShadowTrainVariant;
}
namespace avx2 {
extern const ShadowTrainVariant kShadowTrainVariant;
}
namespace avx512 {
extern const ShadowTrainVariant kShadowTrainVariant;
}

inline const ShadowTrainVariant& shadow_train_variant(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::kAvx512) return avx512::kShadowTrainVariant;
  if (simd == Simd::kAvx2) return avx2::kShadowTrainVariant;
#endif
  return scalar::kShadowTrainVariant;
}

}  // namespace pydrift
