// pydrift::shadow_statistics and pydrift::shadow_moments. What both devices share: checks and signatures.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "shadow/shadow_task.h"

namespace pydrift {

inline bool on_one_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

// `label` [count] in host memory.
inline void check_labels(const char* op, const int32_t* label, int64_t count, int64_t num_classes) {
  for (int64_t i = 0; i < count; ++i) {
    PYDRIFT_CHECK(label[i] >= 0 && label[i] < num_classes, op, ": label must be in [0, ", num_classes, "), got ",
                  label[i], " at index ", i);
  }
}

// The only validation of the tensors, for both ops and devices. The labels are checked where the host can read them.
inline Program check_shadow(const char* op, const Tensor& x, const Tensor& parameters, const Tensor& label,
                            const std::vector<int64_t>& codes) {
  PYDRIFT_CHECK(x.dim() == 4 && (x.scalar_type() == ScalarType::Byte || x.scalar_type() == ScalarType::Float) &&
                    x.is_contiguous(),
                op, ": x must be [N, C, H, W] uint8 or float32 and contiguous, got ", describe(x));
  const int64_t num_channels = x.size(1), height = x.size(2), width = x.size(3);
  PYDRIFT_CHECK(num_channels >= 1 && height >= 1 && width >= 1 && num_channels <= kMaxValuesPerLayer / height / width,
                op, ": C, H and W must be >= 1 and C * H * W <= ", kMaxValuesPerLayer, ", got ", describe(x));
  const LayerShape input{static_cast<int32_t>(num_channels), static_cast<int32_t>(height), static_cast<int32_t>(width)};
  Program program;
  try {
    program = parse_program(codes.data(), codes.size(), input);
  } catch (const std::invalid_argument& error) {
    refuse(op, ": ", error.what());
  }
  PYDRIFT_CHECK(parameters.dim() == 2 && parameters.size(1) == program.num_parameters &&
                    parameters.scalar_type() == ScalarType::Float && parameters.is_contiguous() &&
                    on_one_device(parameters, x),
                op, ": parameters must be [models, ", program.num_parameters,
                "] float32, contiguous and on the device of x, got ", describe(parameters));
  PYDRIFT_CHECK(label.dim() == 1 && label.size(0) == x.size(0) && label.scalar_type() == ScalarType::Int &&
                    label.is_contiguous() && on_one_device(label, x),
                op, ": label must be [", x.size(0), "] int32, contiguous and on the device of x, got ",
                describe(label));
  return program;
}

inline ShadowTask shadow_task(const char* op, const Program& program, const Tensor& x, const Tensor& parameters,
                              const Tensor& label, const std::string& precision) {
  ShadowTask task{};
  task.arithmetic = read_precision(op, precision, x.is_cpu());
  task.program = &program;
  if (x.scalar_type() == ScalarType::Byte) {
    task.bytes = x.const_data_ptr<uint8_t>();
  } else {
    task.values = x.const_data_ptr<float>();
  }
  task.parameters = parameters.const_data_ptr<float>();
  task.label = label.const_data_ptr<int32_t>();
  task.num_models = parameters.size(0);
  task.num_samples = x.size(0);
  return task;
}

// The boxed functions of a device: kRun does the work on checked arguments.
template <void (*kRun)(const ShadowTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor, Tensor> shadow_statistics(const Tensor x, const Tensor parameters,
                                                             const Tensor label, std::vector<int64_t> program_codes,
                                                             std::string precision) {
  const char* op = "shadow_statistics";
  const Program program = check_shadow(op, x, parameters, label, program_codes);
  ShadowTask task = shadow_task(op, program, x, parameters, label, precision);
  const auto output = [&](ScalarType dtype) {
    return torch::stable::new_empty(parameters, {task.num_models, task.num_samples}, dtype);
  };
  const Tensor margin = output(ScalarType::Float), loss = output(ScalarType::Float);
  const Tensor confidence = output(ScalarType::Float), prediction = output(ScalarType::Int);
  task.statistics = {margin.mutable_data_ptr<float>(), loss.mutable_data_ptr<float>(),
                     confidence.mutable_data_ptr<float>(), prediction.mutable_data_ptr<int32_t>()};
  if (task.num_models > 0 && task.num_samples > 0) kRun(task, op, x.get_device_index());
  return {margin, loss, confidence, prediction};
}

template <void (*kRun)(const ShadowTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor> shadow_moments(const Tensor x, const Tensor parameters, const Tensor label,
                                                  const Tensor member, std::vector<int64_t> program_codes,
                                                  std::string precision) {
  const char* op = "shadow_moments";
  const Program program = check_shadow(op, x, parameters, label, program_codes);
  ShadowTask task = shadow_task(op, program, x, parameters, label, precision);
  PYDRIFT_CHECK(member.dim() == 2 && member.size(0) == task.num_models && member.size(1) == task.num_samples &&
                    member.scalar_type() == ScalarType::Bool && member.is_contiguous() && on_one_device(member, x),
                op, ": member must be [", task.num_models, ", ", task.num_samples,
                "] bool, contiguous and on the device of x, got ", describe(member));
  task.member = member.const_data_ptr<bool>();
  const auto output = [&](ScalarType dtype) {
    return torch::stable::new_zeros(parameters, {kNumSides, task.num_samples}, dtype);
  };
  const Tensor count = output(ScalarType::Int), mean = output(ScalarType::Float), m2 = output(ScalarType::Float);
  task.moments = {count.mutable_data_ptr<int32_t>(), mean.mutable_data_ptr<float>(), m2.mutable_data_ptr<float>()};
  if (task.num_models > 0 && task.num_samples > 0) kRun(task, op, x.get_device_index());
  return {count, mean, m2};
}

}  // namespace pydrift
