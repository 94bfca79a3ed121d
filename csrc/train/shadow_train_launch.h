// What the launcher of training on the GPU decides before a launch. Host code without torch or CUDA.
#pragma once

#include <algorithm>
#include <vector>

#include "train/shadow_train_check.h"
#include "train/shadow_train_device.h"

namespace pydrift {

inline constexpr int64_t kModelBatchBytes = int64_t{1} << 31;  // memory of a batch of more than one model

namespace train_launch_detail {

// out[o] over the terms that `offset_step` and `parameter_step` are apart; the positions of a flat pass are the groups.
inline Dense add_flat_pass(Plan& plan, int32_t num_outputs, int64_t output_step, int32_t num_terms, int32_t offset_step,
                           int64_t parameter, int32_t parameter_step) {
  Dense dense;
  dense.num_outputs = num_outputs, dense.output_step = output_step, dense.num_terms = num_terms;
  dense.terms = static_cast<int64_t>(plan.offsets.size());
  for (int32_t k = 0; k < num_terms; ++k) {
    plan.offsets.push_back(k * offset_step);
    plan.parameters.push_back(static_cast<int32_t>(parameter + int64_t{k} * parameter_step));
  }
  dense.tiles = static_cast<int64_t>(plan.tiles.size());
  dense.num_tiles = 1;
  plan.tiles.push_back(Tile{});
  return dense;
}

}  // namespace train_launch_detail

// The CPU's plan, with passes for the linear layers added: on the GPU they run like convolutions.
inline Plan make_device_train_plan(const Program& program) {
  using train_launch_detail::add_flat_pass;
  Plan plan = make_train_plan(program, kWarpSize, kWarpRows, /*winograd=*/false);
  for (Stage& stage : plan.stages) {
    if (stage.kind != StageKind::kLinear) continue;
    const int32_t num_in = stage.in.channels, num_out = stage.out.channels;
    stage.forward = add_flat_pass(plan, num_out, num_in, num_in, stage.in.plane, stage.weight_parameters, 1);
    if (stage.in_gradient.channels == 0) continue;
    stage.first_backward = static_cast<int32_t>(plan.backward.size()), stage.num_backward = 1;
    plan.backward.push_back(
        add_flat_pass(plan, num_in, 1, num_out, stage.out_gradient.plane, stage.weight_parameters, num_in));
  }
  return plan;
}

// Parameters [begin, end) that learn: those of linear layers and convolutions. Neighbouring ones form one range.
struct LearningRange {
  int64_t begin, end;
};

inline std::vector<LearningRange> learning_ranges(const Plan& plan) {
  std::vector<LearningRange> ranges;
  for (const Stage& stage : plan.stages) {
    if (!stage.has_weights()) continue;
    const int64_t end = stage.bias_parameters + stage.out.channels;
    if (!ranges.empty() && ranges.back().end == stage.weight_parameters) {
      ranges.back().end = end;
    } else {
      ranges.push_back({stage.weight_parameters, end});
    }
  }
  return ranges;
}

inline std::vector<DeviceModel> device_models(const ShadowTrainTask& task, const TrainParts& parts) {
  std::vector<DeviceModel> models;
  for (int64_t k = 0; k < task.num_models; ++k) {
    models.push_back({parts.order[k], parts.learning_rate[k], task.num_steps[k], task.batch_size[k],
                      task.hyperparameters[k].label_smoothing});
  }
  return models;
}

inline std::vector<OptimizerStep> optimizer_steps(const ShadowTrainTask& task, const TrainParts& parts) {
  std::vector<OptimizerStep> steps;
  for (int64_t k = 0; k < task.num_models; ++k) {
    for (int32_t step = 0; step < task.num_steps[k]; ++step) {
      steps.push_back(optimizer_step(task.optimizer, task.hyperparameters[k],
                                     task.learning_rate[parts.learning_rate[k] + step], task.steps_done[k] + step + 1));
    }
  }
  return steps;
}

// Memory for each model of a model batch.
struct ModelBatchMemory {
  int64_t shared_floats, group_floats, code_bytes, num_gradients, num_losses;

  ModelBatchMemory(const Plan& plan, const Program& program)
      : shared_floats(plan.shared_floats),
        group_floats(kMaxGroups * plan.group_floats),
        code_bytes(kMaxGroups * plan.code_bytes),
        num_gradients(program.num_parameters),
        num_losses(kSliceSamples) {}

  int64_t bytes() const {
    return (shared_floats + group_floats + num_gradients) * static_cast<int64_t>(sizeof(float)) + code_bytes +
           num_losses * static_cast<int64_t>(sizeof(double));
  }

  int64_t models_in(int64_t model_batch_bytes, int64_t num_models) const {
    return std::clamp<int64_t>(model_batch_bytes / bytes(), 1, num_models);
  }
};

// The arguments of the kernels; the tables and the memory of a model batch are set later.
inline TrainArguments make_train_arguments(const ShadowTrainTask& task, const Plan& plan) {
  TrainArguments made{};
  made.bytes = task.bytes, made.floats = task.floats, made.label = task.label;
  made.parameters = task.parameters;
  made.first_moment = task.first_moment, made.second_moment = task.second_moment;
  made.order = task.order, made.augmentation = task.augmentation, made.loss = task.loss;
  made.shared_floats = plan.shared_floats, made.group_floats = plan.group_floats, made.code_bytes = plan.code_bytes;
  made.num_parameters = task.program->num_parameters;
  return made;
}

}  // namespace pydrift
