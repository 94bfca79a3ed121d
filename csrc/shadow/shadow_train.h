// pydrift::shadow_train: steps of training for many models at once. What both devices share: check and signature.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/check.h"
#include "shadow/shadow_train_task.h"

namespace pydrift {

inline void check_train_vector(const char* name, const Tensor& values, int64_t size, ScalarType dtype,
                               const Tensor& x) {
  PYDRIFT_CHECK(values.dim() == 1 && values.size(0) == size && values.scalar_type() == dtype &&
                    values.is_contiguous() && values.is_cpu() == x.is_cpu() &&
                    values.get_device_index() == x.get_device_index(),
                "shadow_train: ", name, " must be [", size, "] ", dtype_name(dtype),
                ", contiguous and on the device of x, got ", describe(values));
}

inline void check_train_matrix(const char* name, const Tensor& values, int64_t rows, int64_t columns, ScalarType dtype,
                               const Tensor& x) {
  PYDRIFT_CHECK(values.dim() == 2 && (rows < 0 || values.size(0) == rows) && values.size(1) == columns &&
                    values.scalar_type() == dtype && values.is_contiguous() && values.is_cpu() == x.is_cpu() &&
                    values.get_device_index() == x.get_device_index(),
                "shadow_train: ", name, " must be [", rows < 0 ? std::string("models") : std::to_string(rows), ", ",
                columns, "] ", dtype_name(dtype), ", contiguous and on the device of x, got ", describe(values));
}

inline Program check_train_images(const Tensor& x, const std::vector<int64_t>& codes) {
  PYDRIFT_CHECK(x.dim() == 4 && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Byte) &&
                    x.is_contiguous(),
                "shadow_train: x must be [N, C, H, W] uint8 or float32 and contiguous, got ", describe(x));
  const int64_t num_channels = x.size(1), height = x.size(2), width = x.size(3);
  PYDRIFT_CHECK(num_channels >= 1 && height >= 1 && width >= 1 && num_channels <= kMaxValuesPerLayer / height / width,
                "shadow_train: C, H and W must be >= 1 and C * H * W <= ", kMaxValuesPerLayer, ", got ", describe(x));
  const LayerShape input{static_cast<int32_t>(num_channels), static_cast<int32_t>(height), static_cast<int32_t>(width)};
  try {
    return parse_program(codes.data(), codes.size(), input);
  } catch (const std::invalid_argument& error) {
    refuse("shadow_train: ", error.what());
  }
}

// The boxed function of a device: kRun checks the values of the checked tensors, and does the work.
template <void (*kRun)(const ShadowTrainTask&, int32_t device_index)>
Tensor shadow_train(const Tensor x, const Tensor label, const Tensor parameters, const Tensor first_moment,
                    const Tensor second_moment, const Tensor order, const Tensor look, const Tensor steps_done,
                    const Tensor num_steps, const Tensor batch_size, const Tensor rate, const Tensor hyper,
                    std::vector<int64_t> program_codes, std::string optimizer) {
  PYDRIFT_CHECK(optimizer == "adam" || optimizer == "sgd", "shadow_train: optimizer must be 'adam' or 'sgd', got '",
                optimizer, "'");
  const bool adam = optimizer == "adam";
  const Program program = check_train_images(x, program_codes);
  check_train_vector("label", label, x.size(0), ScalarType::Int, x);
  check_train_matrix("parameters", parameters, -1, program.num_parameters, ScalarType::Float, x);
  const int64_t num_models = parameters.size(0), num_images = x.size(0);
  check_train_matrix("first_moment", first_moment, num_models, program.num_parameters, ScalarType::Float, x);
  check_train_matrix("second_moment", second_moment, num_models, adam ? program.num_parameters : 0, ScalarType::Float,
                     x);
  check_train_vector("order", order, order.numel(), ScalarType::Int, x);
  check_train_matrix("look", look, look.numel() == 0 ? 0 : order.numel(), sizeof(Look), ScalarType::Char, x);
  check_train_vector("steps_done", steps_done, num_models, ScalarType::Long, x);
  check_train_vector("num_steps", num_steps, num_models, ScalarType::Int, x);
  check_train_vector("batch_size", batch_size, num_models, ScalarType::Int, x);
  check_train_vector("rate", rate, rate.numel(), ScalarType::Double, x);
  check_train_matrix("hyper", hyper, num_models, kNumTrainHyper, ScalarType::Double, x);
  const bool bytes = x.scalar_type() == ScalarType::Byte;
  const Tensor loss = torch::stable::new_empty(parameters, {num_models});
  const ShadowTrainTask task{&program,
                             bytes ? x.const_data_ptr<uint8_t>() : nullptr,
                             bytes ? nullptr : x.const_data_ptr<float>(),
                             label.const_data_ptr<int32_t>(),
                             parameters.mutable_data_ptr<float>(),
                             first_moment.mutable_data_ptr<float>(),
                             adam ? second_moment.mutable_data_ptr<float>() : nullptr,
                             order.const_data_ptr<int32_t>(),
                             look.numel() == 0 ? nullptr : static_cast<const Look*>(look.data_ptr()),
                             steps_done.const_data_ptr<int64_t>(),
                             num_steps.const_data_ptr<int32_t>(),
                             batch_size.const_data_ptr<int32_t>(),
                             rate.const_data_ptr<double>(),
                             static_cast<const TrainHyper*>(hyper.data_ptr()),
                             loss.mutable_data_ptr<float>(),
                             num_images,
                             num_models,
                             order.numel(),
                             rate.numel(),
                             adam ? TrainOptimizer::kAdam : TrainOptimizer::kSgd};
  kRun(task, x.get_device_index());
  return loss;
}

}  // namespace pydrift
