// What one thread needs for walks through one model, as plain pointers. No torch.
#pragma once

#include "boundary/boundary_walks_task.h"
#include "network/cpu/variant.h"
#include "network/program/plan.h"

namespace pydrift {

struct WalkWorker {
  const BoundaryTask* task;
  const PlanView* plan;
  const float* weights;          // packed for the plan
  int64_t (*next)(void* queue);  // the next walk of the model, or -1; other threads take from the same queue
  void* queue;
  float* shared;   // [Plan::shared_floats]
  float* group;    // [Plan::group_floats], zero
  uint8_t* codes;  // [kMaxGroups][code_bytes]
  int64_t code_bytes;
  WalkSlot* slots;    // [Plan::num_slots()]
  int32_t num_slots;  // at most so many are used
  float* states;      // [kMaxGroups][2][values][lanes]: image and gradient (min_gd) or direction
};

// In boundary_walks_lanes.cpp.
template <>
const Variant<WalkWorker> VariantTable<WalkWorker>::scalar;
template <>
const Variant<WalkWorker> VariantTable<WalkWorker>::avx2;
template <>
const Variant<WalkWorker> VariantTable<WalkWorker>::avx512;

}  // namespace pydrift
