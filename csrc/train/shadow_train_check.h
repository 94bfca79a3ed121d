// Checks the values of shadow_train's arguments, in host memory. No torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/refuse.h"
#include "network/program/plan.h"
#include "train/shadow_train_task.h"

namespace pydrift {

inline constexpr int64_t kMaxStepsDone = int64_t{1} << 62;  // far from an overflow, however many steps follow

inline void check_train_hyperparameters(const TrainHyperparameters& hyperparameters, int64_t model,
                                        TrainOptimizer optimizer) {
  const auto check = [model](bool holds, const char* what, double value) {
    PYDRIFT_CHECK(holds, "shadow_train: ", what, ", got ", value, " for model ", model);
  };
  check(hyperparameters.beta1 >= 0 && hyperparameters.beta1 < 1, "beta1 or momentum must be in [0, 1)",
        hyperparameters.beta1);
  if (optimizer == TrainOptimizer::kAdam) {
    check(hyperparameters.beta2 >= 0 && hyperparameters.beta2 < 1, "beta2 must be in [0, 1)", hyperparameters.beta2);
    check(hyperparameters.epsilon > 0 && std::isfinite(hyperparameters.epsilon), "epsilon must be finite and > 0",
          hyperparameters.epsilon);
  }
  check(hyperparameters.weight_decay >= 0 && std::isfinite(hyperparameters.weight_decay),
        "weight_decay must be finite and >= 0", hyperparameters.weight_decay);
  check(hyperparameters.label_smoothing >= 0 && hyperparameters.label_smoothing < 1,
        "label_smoothing must be in [0, 1)", hyperparameters.label_smoothing);
}

// Where the part of each model begins in `order` and in `learning_rate`.
struct TrainParts {
  std::vector<int64_t> order, learning_rate;  // [K + 1]
};

// `task` with its values in host memory; x, the parameters and the moments are not checked.
inline TrainParts check_train_values(const ShadowTrainTask& task) {
  check_range("shadow_train", "label", task.label, task.num_images, task.program->num_classes());
  check_range("shadow_train", "order", task.order, task.num_order_entries, task.num_images);
  TrainParts parts{{0}, {0}};
  for (int64_t k = 0; k < task.num_models; ++k) {
    check_train_hyperparameters(task.hyperparameters[k], k, task.optimizer);
    PYDRIFT_CHECK(task.num_steps[k] >= 0 && task.batch_size[k] >= 1 && task.steps_done[k] >= 0 &&
                      task.steps_done[k] < kMaxStepsDone,
                  "shadow_train: num_steps must be >= 0, steps_done in [0, 2^62) and batch_size >= 1, got ",
                  task.num_steps[k],
                  ", ", task.steps_done[k], " and ", task.batch_size[k], " for model ", k);
    parts.order.push_back(parts.order.back() + int64_t{task.num_steps[k]} * task.batch_size[k]);
    parts.learning_rate.push_back(parts.learning_rate.back() + task.num_steps[k]);
  }
  PYDRIFT_CHECK(parts.order.back() == task.num_order_entries,
                "shadow_train: order must have as many entries as num_steps * batch_size over all models, ",
                parts.order.back(), ", got ", task.num_order_entries);
  PYDRIFT_CHECK(parts.learning_rate.back() == task.num_learning_rates,
                "shadow_train: learning_rate must have as many entries as num_steps over all models, ",
                parts.learning_rate.back(), ", got ", task.num_learning_rates);
  for (int64_t i = 0; i < task.num_learning_rates; ++i) {
    PYDRIFT_CHECK(task.learning_rate[i] >= 0 && std::isfinite(task.learning_rate[i]),
                  "shadow_train: learning_rate must be finite and >= 0, got ", task.learning_rate[i], " at index ", i);
  }
  return parts;
}

inline Plan make_train_plan(const Program& program, int32_t lanes, int32_t rows, bool winograd) {
  const bool any_weights = std::any_of(program.layers.begin(), program.layers.end(), [](const Layer& layer) {
    return layer.kind == LayerKind::kLinear || layer.kind == LayerKind::kConv2d;
  });
  PYDRIFT_CHECK(any_weights, "shadow_train: program: no linear or conv2d layer, so there is nothing to train");
  return refuse_as("shadow_train", [&] { return make_plan(program, lanes, rows, Passes::kWeightGradient, winograd); });
}

}  // namespace pydrift
