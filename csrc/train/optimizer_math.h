// The formulas of the optimizers, for both devices. No torch.
#pragma once

#include <cmath>

#include "common/portable.h"
#include "train/shadow_train_task.h"

namespace pydrift {

// The factors of a step, each rounded to float32 once.
struct OptimizerStep {
  float step_size;
  float kept;                                          // kAdam: factor of the parameter
  float weight1, weight2, beta2, root_scale, epsilon;  // kAdam; weight1, weight2: of the gradient in the moments
  float momentum, decay;                               // kSgd; decay: of the parameter in the gradient
};

// `step` counts from 1.
PYDRIFT_INLINE OptimizerStep optimizer_step(TrainOptimizer optimizer, const TrainHyperparameters& hyperparameters,
                                            double learning_rate, int64_t step) {
  OptimizerStep made{};
  if (optimizer == TrainOptimizer::kAdam) {
    made.step_size =
        static_cast<float>(learning_rate / (1.0 - std::pow(hyperparameters.beta1, static_cast<double>(step))));
    made.kept = static_cast<float>(1.0 - learning_rate * hyperparameters.weight_decay);
    made.weight1 = static_cast<float>(1.0 - hyperparameters.beta1),
    made.weight2 = static_cast<float>(1.0 - hyperparameters.beta2);
    made.beta2 = static_cast<float>(hyperparameters.beta2);
    made.root_scale = static_cast<float>(std::sqrt(1.0 - std::pow(hyperparameters.beta2, static_cast<double>(step))));
    made.epsilon = static_cast<float>(hyperparameters.epsilon);
  } else {
    made.step_size = static_cast<float>(learning_rate);
    made.momentum = static_cast<float>(hyperparameters.beta1),
    made.decay = static_cast<float>(hyperparameters.weight_decay);
  }
  return made;
}

// As torch.optim.AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
PYDRIFT_HD void adam_update(const OptimizerStep& step, float gradient, float& parameter, float& first, float& second) {
  first = first + step.weight1 * (gradient - first);
  second = step.beta2 * second + step.weight2 * gradient * gradient;
  parameter = step.kept * parameter - step.step_size * first / (sqrtf(second) / step.root_scale + step.epsilon);
}

// As torch.optim.SGD with Nesterov's momentum, the weight decay being part of the gradient.
PYDRIFT_HD void sgd_update(const OptimizerStep& step, float gradient, float& parameter, float& velocity) {
  const float decayed = gradient + step.decay * parameter;
  velocity = step.momentum * velocity + decayed;
  parameter -= step.step_size * (decayed + step.momentum * velocity);
}

}  // namespace pydrift
