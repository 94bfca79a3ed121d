// What one thread needs to train one model, as plain pointers. No torch.
#pragma once

#include "network/cpu/variant.h"
#include "network/program/plan.h"
#include "train/shadow_train_task.h"

namespace pydrift {

struct ShadowTrainWorker {
  const ShadowTrainTask* task;
  const Plan* plan;
  const PlanView* view;
  int64_t model;
  const int32_t* order;              // [num_steps * batch_size], of this model
  const Augmentation* augmentation;  // of this model; null: none
  const double* learning_rate;       // [num_steps], of this model
  float* parameters;                 // [P], a copy in large pages, next to the moments
  float* first_moment;               // [P]
  float* second_moment;              // [P]
  float* gradients;                  // [P]
  float* weights;                    // [Plan::num_weights]
  float* shared;                     // [Plan::shared_floats]
  float* groups;                     // [kMaxGroups][Plan::group_floats], borders zero
  uint8_t* codes;                    // [kMaxGroups][Plan::code_bytes]
  float* scratch;                    // [gradient_scratch_floats(plan)]
};

// In shadow_train_lanes.cpp.
template <>
const Variant<ShadowTrainWorker> VariantTable<ShadowTrainWorker>::scalar;
template <>
const Variant<ShadowTrainWorker> VariantTable<ShadowTrainWorker>::avx2;
template <>
const Variant<ShadowTrainWorker> VariantTable<ShadowTrainWorker>::avx512;

}  // namespace pydrift
