// pydrift::ascent_update: one ascent step of every running inversion. What both devices share: check and signature.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

#include "common/check.h"
#include "invert/ascent_options.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

template <class Sizes>
void check_tensor(const char* name, const Tensor& tensor, ScalarType dtype, const Sizes& sizes, const Tensor& x) {
  const auto got = tensor.sizes();
  const bool matches = std::equal(got.begin(), got.end(), sizes.begin(), sizes.end()) &&
                       tensor.scalar_type() == dtype && tensor.is_contiguous() && tensor.is_cpu() == x.is_cpu() &&
                       tensor.get_device_index() == x.get_device_index();
  PYDRIFT_CHECK(matches, "ascent_update: ", name, " must be ", shape_text(sizes), " ", dtype_name(dtype),
                ", contiguous and on the device of x, got ", describe(tensor));
}

// The only validation of the tensors, for both devices.
inline AscentTensors check_ascent_update(const Tensor& x, const Tensor& gradient, const Tensor& first_moment,
                                         const Tensor& second_moment, const Tensor& log_probability,
                                         const Tensor& best_cost, const Tensor& steps_without_improvement,
                                         const Tensor& steps, const Tensor& active, Optimizer optimizer) {
  PYDRIFT_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && x.is_contiguous(),
                "ascent_update: x must be [N, C, H, W] float32 and contiguous, got ", describe(x));
  const int64_t num_samples = x.size(0), num_channels = x.size(1), height = x.size(2), width = x.size(3);
  PYDRIFT_CHECK(num_channels >= 1 && height >= 1 && width >= 1, "ascent_update: C, H and W must be >= 1, got ",
                describe(x));
  PYDRIFT_CHECK(num_channels <= kMaxValuesPerSample / height / width,
                "ascent_update: C * H * W must be <= ", kMaxValuesPerSample, ", got ", describe(x));
  const std::array<int64_t, 1> per_sample = {num_samples};
  check_tensor("gradient", gradient, ScalarType::Float, x.sizes(), x);
  check_tensor("first_moment", first_moment, ScalarType::Float, x.sizes(), x);
  if (optimizer == Optimizer::kAdam) check_tensor("second_moment", second_moment, ScalarType::Float, x.sizes(), x);
  check_tensor("log_probability", log_probability, ScalarType::Float, per_sample, x);
  check_tensor("best_cost", best_cost, ScalarType::Float, per_sample, x);
  check_tensor("steps_without_improvement", steps_without_improvement, ScalarType::Int, per_sample, x);
  check_tensor("steps", steps, ScalarType::Int, per_sample, x);
  check_tensor("active", active, ScalarType::Bool, per_sample, x);
  float* first = first_moment.mutable_data_ptr<float>();
  return {x.mutable_data_ptr<float>(),
          gradient.const_data_ptr<float>(),
          first,
          optimizer == Optimizer::kAdam ? second_moment.mutable_data_ptr<float>() : first,
          log_probability.const_data_ptr<float>(),
          best_cost.mutable_data_ptr<float>(),
          steps_without_improvement.mutable_data_ptr<int32_t>(),
          steps.mutable_data_ptr<int32_t>(),
          active.mutable_data_ptr<bool>(),
          num_samples,
          static_cast<int32_t>(num_channels),
          static_cast<int32_t>(height),
          static_cast<int32_t>(width)};
}

// The boxed function of a device: kRun does the work on checked arguments. The scalars are those of AscentOptions.
template <void (*kRun)(const AscentTensors&, const AscentConstants&, int32_t device_index),
          class Types = AscentOptions::Types>
struct AscentUpdateOp;

template <void (*kRun)(const AscentTensors&, const AscentConstants&, int32_t device_index), class... Scalars>
struct AscentUpdateOp<kRun, std::tuple<Scalars...>> {
  static void call(const Tensor x, const Tensor gradient, const Tensor first_moment, const Tensor second_moment,
                   const Tensor log_probability, const Tensor best_cost, const Tensor steps_without_improvement,
                   const Tensor steps, const Tensor active, Scalars... scalars) {
    const AscentOptions options{scalars...};
    check_ascent_options("ascent_update", options);
    const AscentConstants constants = ascent_constants(options);
    const AscentTensors tensors =
        check_ascent_update(x, gradient, first_moment, second_moment, log_probability, best_cost,
                            steps_without_improvement, steps, active, constants.optimizer);
    if (tensors.num_samples > 0) kRun(tensors, constants, x.get_device_index());
  }
};

}  // namespace pydrift
