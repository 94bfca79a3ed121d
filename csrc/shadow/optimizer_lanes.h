// One step of an optimizer over all parameters of a model. No torch.
#pragma once

#include <cmath>

#include "arch/lanes.h"
#include "shadow/shadow_train_task.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// As torch.optim.AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. `step` counts from 1.
inline void adam_step(const TrainHyper& hyper, double rate, int64_t step, int64_t count, const float* gradient,
                      float* parameter, float* first, float* second) {
  const float kept = static_cast<float>(1.0 - rate * hyper.weight_decay);
  const float beta2 = static_cast<float>(hyper.beta2), epsilon = static_cast<float>(hyper.epsilon);
  const float weight1 = static_cast<float>(1.0 - hyper.beta1), weight2 = static_cast<float>(1.0 - hyper.beta2);
  const float step_size = static_cast<float>(rate / (1.0 - std::pow(hyper.beta1, static_cast<double>(step))));
  const float root_scale = static_cast<float>(std::sqrt(1.0 - std::pow(hyper.beta2, static_cast<double>(step))));
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i];
    const float m = first[i] + weight1 * (g - first[i]), v = beta2 * second[i] + weight2 * g * g;
    first[i] = m, second[i] = v;
    parameter[i] = kept * parameter[i] - step_size * m / (__builtin_sqrtf(v) / root_scale + epsilon);
  }
}

// As torch.optim.SGD with Nesterov's momentum, the weight decay being part of the gradient.
inline void sgd_step(const TrainHyper& hyper, double rate, int64_t count, const float* gradient, float* parameter,
                     float* velocity) {
  const float momentum = static_cast<float>(hyper.beta1), decay = static_cast<float>(hyper.weight_decay);
  const float step_size = static_cast<float>(rate);
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] + decay * parameter[i], v = momentum * velocity[i] + g;
    velocity[i] = v;
    parameter[i] -= step_size * (g + momentum * v);
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
