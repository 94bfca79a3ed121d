// What one thread needs to invert restarts of one model, as plain pointers. No torch.
#pragma once

#include "common/philox.h"
#include "invert/invert_task.h"
#include "network/cpu/variant.h"
#include "network/program/plan.h"

namespace pydrift {

// A place for one running restart.
struct InvertSlot {
  int64_t sample;
  Shift shift;  // of this round
  int32_t label;
  float log_probability;
  float best_cost;
  int32_t steps_without_improvement;
  int32_t steps;
  bool active;
  bool is_final;  // this round evaluates the restart and takes no step
  bool ended;
};

struct InvertWorker {
  const InvertTask* task;
  const PlanView* plan;
  const float* weights;          // packed for the plan
  int64_t (*next)(void* queue);  // the next restart of the model, or -1; other threads take from the same queue
  void* queue;
  float* shared;   // [Plan::shared_floats]
  float* group;    // [Plan::group_floats], zero
  uint8_t* codes;  // [kMaxGroups][code_bytes]
  int64_t code_bytes;
  InvertSlot* slots;  // [Plan::num_slots()]
  int32_t num_slots;  // at most so many are used
  float* states;      // [kMaxGroups][3][values][lanes]: images, first and second moments
  float* gradient;    // [values][lanes]
  float* line;        // [2 * width][lanes]
};

// In invert_lanes.cpp.
template <>
const Variant<InvertWorker> VariantTable<InvertWorker>::scalar;
template <>
const Variant<InvertWorker> VariantTable<InvertWorker>::avx2;
template <>
const Variant<InvertWorker> VariantTable<InvertWorker>::avx512;

}  // namespace pydrift
