// pydrift::shadow_train: steps of training for many models at once. What both devices share: check and signature.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "network/program/check.h"
#include "train/shadow_train_task.h"

namespace pydrift {

// The boxed function of a device: kRun checks the values of the checked tensors, and does the work.
template <void (*kRun)(const ShadowTrainTask&, int32_t device_index)>
Tensor shadow_train(const Tensor x, const Tensor label, const Tensor parameters, const Tensor first_moment,
                    const Tensor second_moment, const Tensor order, const Tensor augmentation, const Tensor steps_done,
                    const Tensor num_steps, const Tensor batch_size, const Tensor learning_rate,
                    const Tensor hyperparameters, std::vector<int64_t> program_codes, std::string optimizer) {
  constexpr const char* op = "shadow_train";
  PYDRIFT_CHECK(optimizer == "adam" || optimizer == "sgd", "shadow_train: optimizer must be 'adam' or 'sgd', got '",
                optimizer, "'");
  const bool adam = optimizer == "adam";
  check_images(op, "x", x, ImageTypes::kByteOrFloat);
  const Program program = check_program(op, x, program_codes);
  check_vector(op, "label", label, x.size(0), ScalarType::Int, x);
  check_matrix(op, "parameters", parameters, -1, program.num_parameters, ScalarType::Float, x);
  const int64_t num_models = parameters.size(0), num_images = x.size(0);
  check_matrix(op, "first_moment", first_moment, num_models, program.num_parameters, ScalarType::Float, x);
  check_matrix(op, "second_moment", second_moment, num_models, adam ? program.num_parameters : 0, ScalarType::Float, x);
  check_vector(op, "order", order, order.numel(), ScalarType::Int, x);
  check_matrix(op, "augmentation", augmentation, augmentation.numel() == 0 ? 0 : order.numel(), sizeof(Augmentation),
               ScalarType::Char, x);
  check_vector(op, "steps_done", steps_done, num_models, ScalarType::Long, x);
  check_vector(op, "num_steps", num_steps, num_models, ScalarType::Int, x);
  check_vector(op, "batch_size", batch_size, num_models, ScalarType::Int, x);
  check_vector(op, "learning_rate", learning_rate, learning_rate.numel(), ScalarType::Double, x);
  check_matrix(op, "hyperparameters", hyperparameters, num_models, kNumTrainHyperparameters, ScalarType::Double, x);
  const bool bytes = x.scalar_type() == ScalarType::Byte;
  const Tensor loss = torch::stable::new_empty(parameters, {num_models});
  const ShadowTrainTask task{
      &program,
      bytes ? x.const_data_ptr<uint8_t>() : nullptr,
      bytes ? nullptr : x.const_data_ptr<float>(),
      label.const_data_ptr<int32_t>(),
      parameters.mutable_data_ptr<float>(),
      first_moment.mutable_data_ptr<float>(),
      adam ? second_moment.mutable_data_ptr<float>() : nullptr,
      order.const_data_ptr<int32_t>(),
      augmentation.numel() == 0 ? nullptr : static_cast<const Augmentation*>(augmentation.data_ptr()),
      steps_done.const_data_ptr<int64_t>(),
      num_steps.const_data_ptr<int32_t>(),
      batch_size.const_data_ptr<int32_t>(),
      learning_rate.const_data_ptr<double>(),
      static_cast<const TrainHyperparameters*>(hyperparameters.data_ptr()),
      loss.mutable_data_ptr<float>(),
      num_images,
      num_models,
      order.numel(),
      learning_rate.numel(),
      adam ? TrainOptimizer::kAdam : TrainOptimizer::kSgd};
  kRun(task, x.get_device_index());
  return loss;
}

}  // namespace pydrift
