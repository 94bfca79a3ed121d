// What one thread needs for walks through one model, as plain pointers. No torch.
#pragma once

#include "boundary/boundary_walks_task.h"
#include "common/simd.h"
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
  float* states;      // [kMaxGroups][2][values][lanes]: min_gd: the image, and room; blind_walk: image and direction
};

// The loops for an instruction set, and the sizes that their plans must have.
struct WalkVariant {
  int32_t lanes;
  int32_t rows;
  void (*min_gd)(const WalkWorker&);
  void (*blind_walk)(const WalkWorker&);
};

namespace scalar {
extern const WalkVariant kWalkVariant;
}
namespace avx2 {
extern const WalkVariant kWalkVariant;
}
namespace avx512 {
extern const WalkVariant kWalkVariant;
}

inline const WalkVariant& walk_variant(Simd simd) {
#if defined(__x86_64__)
  if (simd == Simd::kAvx512) return avx512::kWalkVariant;
  if (simd == Simd::kAvx2) return avx2::kWalkVariant;
#endif
  return scalar::kWalkVariant;
}

}  // namespace pydrift
