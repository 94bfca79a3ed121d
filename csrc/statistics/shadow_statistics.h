// pydrift::shadow_statistics, shadow_moments and shadow_logits. What devices share: checks and signatures.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "network/program/check.h"
#include "statistics/shadow_statistics_task.h"

namespace pydrift {

// The only validation of the tensors, for all ops and devices.
inline Program check_shadow(const char* op, const Tensor& x, const Tensor& parameters,
                            const std::vector<int64_t>& codes) {
  check_images(op, "x", x, ImageTypes::kByteOrFloat);
  Program program = check_program(op, x, codes);
  check_matrix(op, "parameters", parameters, -1, program.num_parameters, ScalarType::Float, x);
  return program;
}

inline ShadowTask shadow_task(const Program& program, const Tensor& x, const Tensor& parameters) {
  ShadowTask task{};
  task.program = &program;
  if (x.scalar_type() == ScalarType::Byte) {
    task.bytes = x.const_data_ptr<uint8_t>();
  } else {
    task.values = x.const_data_ptr<float>();
  }
  task.parameters = parameters.const_data_ptr<float>();
  task.num_models = parameters.size(0);
  task.num_samples = x.size(0);
  return task;
}

// The labels' range is checked where the host can read them.
inline ShadowTask labelled_task(const char* op, const Program& program, const Tensor& x, const Tensor& parameters,
                                const Tensor& label, const std::string& precision) {
  check_vector(op, "label", label, x.size(0), ScalarType::Int, x);
  ShadowTask task = shadow_task(program, x, parameters);
  task.arithmetic = read_precision(op, precision, x.is_cpu());
  task.label = label.const_data_ptr<int32_t>();
  return task;
}

// The boxed functions of a device: kRun does the work on checked arguments.
template <void (*kRun)(const ShadowTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor, Tensor> shadow_statistics(const Tensor x, const Tensor parameters,
                                                             const Tensor label, std::vector<int64_t> program_codes,
                                                             std::string precision) {
  const char* op = "shadow_statistics";
  const Program program = check_shadow(op, x, parameters, program_codes);
  ShadowTask task = labelled_task(op, program, x, parameters, label, precision);
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
  const Program program = check_shadow(op, x, parameters, program_codes);
  ShadowTask task = labelled_task(op, program, x, parameters, label, precision);
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

template <void (*kRun)(const ShadowTask&, const char* op, int32_t device_index)>
Tensor shadow_logits(const Tensor x, const Tensor parameters, std::vector<int64_t> program_codes) {
  const char* op = "shadow_logits";
  const Program program = check_shadow(op, x, parameters, program_codes);
  ShadowTask task = shadow_task(program, x, parameters);
  const Tensor logits = torch::stable::new_empty(parameters, {task.num_models, task.num_samples, program.num_classes()},
                                                 ScalarType::Float);
  task.logits = logits.mutable_data_ptr<float>();
  if (task.num_models > 0 && task.num_samples > 0) kRun(task, op, x.get_device_index());
  return logits;
}

}  // namespace pydrift
