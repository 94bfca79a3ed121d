// What one thread needs to invert restarts of one model, as plain pointers. No torch.
#pragma once

#include "common/philox.h"
#include "common/simd.h"
#include "invert/invert_task.h"
#include "network/program/plan.h"

namespace pydrift {

// A place for one running restart.
struct InvertSlot {
  int64_t sample;
  Shift shift;  // of this round's look
  int32_t label;
  float log_probability;
  float best_cost;
  int32_t steps_without_improvement;
  int32_t steps;
  bool active;
  bool is_final;  // this round only evaluates
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

// The loop for an instruction set, and the sizes that its plan must have.
struct InvertVariant {
  int32_t lanes;
  int32_t rows;
  void (*run)(const InvertWorker&);
};

namespace scalar {
extern const InvertVariant kInvertVariant;
}
namespace avx2 {
extern const InvertVariant kInvertVariant;
}
namespace avx512 {
extern const InvertVariant kInvertVariant;
}

inline const InvertVariant& invert_variant(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::kAvx512) return avx512::kInvertVariant;
  if (simd == Simd::kAvx2) return avx2::kInvertVariant;
#endif
  return scalar::kInvertVariant;
}

}  // namespace pydrift
