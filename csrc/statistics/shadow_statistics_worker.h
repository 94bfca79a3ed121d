// What one thread needs to run some models over a block of samples, as plain pointers. No torch.
#pragma once

#include "network/cpu/variant.h"
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

// In shadow_statistics_lanes.cpp.
template <>
const Variant<ShadowWorker> VariantTable<ShadowWorker>::scalar;
template <>
const Variant<ShadowWorker> VariantTable<ShadowWorker>::avx2;
template <>
const Variant<ShadowWorker> VariantTable<ShadowWorker>::avx512;

}  // namespace pydrift
