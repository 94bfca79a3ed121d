// One step of an optimizer over all parameters of a model. No torch.
#pragma once

#include "network/cpu/lanes.h"
#include "train/optimizer_math.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// `step` is passed by value: no store to the arrays can change it, so the loop vectorises.
inline void adam_step(const OptimizerStep step, int64_t count, const float* gradient, float* parameter, float* first,
                      float* second) {
  for (int64_t i = 0; i < count; ++i) {
    float p = parameter[i], m = first[i], v = second[i];
    adam_update(step, gradient[i], p, m, v);
    parameter[i] = p, first[i] = m, second[i] = v;
  }
}

inline void sgd_step(const OptimizerStep step, int64_t count, const float* gradient, float* parameter,
                     float* velocity) {
  for (int64_t i = 0; i < count; ++i) {
    float p = parameter[i], v = velocity[i];
    sgd_update(step, gradient[i], p, v);
    parameter[i] = p, velocity[i] = v;
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
