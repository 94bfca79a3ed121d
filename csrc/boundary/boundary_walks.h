// pydrift::min_gd and pydrift::blind_walk: from images to where the network's answer changes. Checks and signatures.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "boundary/boundary_walks_task.h"
#include "network/program/check.h"

namespace pydrift {

// Of the images, the models and the walks, for both ops; `task` gets all but the outputs.
inline Program check_walks(const char* op, const Tensor& x, const Tensor& parameters, const Tensor& model,
                           const Tensor& image, const Tensor& label, const Tensor& norm,
                           const std::vector<int64_t>& codes, int64_t max_steps, double lower, double upper) {
  check_images(op, "x", x);
  Program program = check_program(op, x, codes);
  check_matrix(op, "parameters", parameters, -1, program.num_parameters, ScalarType::Float, x);
  const int64_t num_walks = model.numel();
  check_vector(op, "model", model, num_walks, ScalarType::Int, x);
  check_vector(op, "image", image, num_walks, ScalarType::Int, x);
  check_vector(op, "label", label, num_walks, ScalarType::Int, x);
  check_vector(op, "norm", norm, num_walks, ScalarType::Int, x);
  PYDRIFT_CHECK(max_steps >= 0 && max_steps < (int64_t{1} << 24), op, ": max_steps must be in [0, 2^24), got ",
                max_steps);
  PYDRIFT_CHECK(lower < upper, op, ": lower must be below upper, got ", lower, " and ", upper);
  return program;
}

inline BoundaryTask walk_task(const Program& program, const Tensor& x, const Tensor& parameters, const Tensor& model,
                              const Tensor& image, const Tensor& label, const Tensor& norm, int64_t max_steps,
                              double lower, double upper) {
  BoundaryTask task{};
  task.program = &program;
  task.x = x.const_data_ptr<float>(), task.parameters = parameters.const_data_ptr<float>();
  task.model = model.const_data_ptr<int32_t>(), task.image = image.const_data_ptr<int32_t>();
  task.label = label.const_data_ptr<int32_t>(), task.norm = norm.const_data_ptr<int32_t>();
  task.num_models = parameters.size(0), task.num_images = x.size(0), task.num_walks = model.size(0);
  task.max_steps = static_cast<int32_t>(max_steps);
  task.lower = static_cast<float>(lower), task.upper = static_cast<float>(upper);
  return task;
}

// The task done, into tensors of its own.
template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor> finish_walks(const char* op, BoundaryTask& task, const Tensor& x) {
  const Tensor distance = torch::stable::new_empty(x, {task.num_walks});
  const Tensor steps = torch::stable::new_empty(x, {task.num_walks}, ScalarType::Int);
  const Tensor prediction = torch::stable::new_empty(x, {task.num_walks}, ScalarType::Int);
  task.distance = distance.mutable_data_ptr<float>(), task.steps = steps.mutable_data_ptr<int32_t>();
  task.prediction = prediction.mutable_data_ptr<int32_t>();
  if (task.num_walks > 0) kRun(task, op, x.get_device_index());
  return {distance, steps, prediction};
}

// The boxed functions of a device: kRun does the work on checked arguments.
template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor> min_gd(const Tensor x, const Tensor parameters, const Tensor model,
                                          const Tensor image, const Tensor label, const Tensor norm,
                                          std::vector<int64_t> program_codes, int64_t max_steps, double linf_step,
                                          double l2_step, double l1_step, int64_t l1_coordinates, double l1_gap,
                                          double lower, double upper) {
  const char* op = "min_gd";
  const Program program =
      check_walks(op, x, parameters, model, image, label, norm, program_codes, max_steps, lower, upper);
  for (const double step : {linf_step, l2_step, l1_step}) {
    PYDRIFT_CHECK(step > 0 && std::isfinite(step), op, ": steps must be finite and > 0, got ", linf_step, ", ", l2_step,
                  " and ", l1_step);
  }
  PYDRIFT_CHECK(l1_coordinates >= 1 && l1_coordinates <= kMaxValuesPerLayer, op,
                ": l1_coordinates must be in [1, 2^24], got ", l1_coordinates);
  PYDRIFT_CHECK(l1_gap >= 0 && std::isfinite(l1_gap), op, ": l1_gap must be finite and >= 0, got ", l1_gap);
  BoundaryTask task = walk_task(program, x, parameters, model, image, label, norm, max_steps, lower, upper);
  task.step[static_cast<int32_t>(Norm::kLinf)] = static_cast<float>(linf_step);
  task.step[static_cast<int32_t>(Norm::kL2)] = static_cast<float>(l2_step);
  task.step[static_cast<int32_t>(Norm::kL1)] = static_cast<float>(l1_step);
  task.coordinates = static_cast<int32_t>(l1_coordinates);
  task.gap = static_cast<float>(l1_gap);
  return finish_walks<kRun>(op, task, x);
}

template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index)>
std::tuple<Tensor, Tensor, Tensor> blind_walk(const Tensor x, const Tensor directions, const Tensor parameters,
                                              const Tensor model, const Tensor image, const Tensor direction,
                                              const Tensor label, const Tensor norm, std::vector<int64_t> program_codes,
                                              int64_t max_steps, double lower, double upper) {
  const char* op = "blind_walk";
  const Program program =
      check_walks(op, x, parameters, model, image, label, norm, program_codes, max_steps, lower, upper);
  check_images(op, "directions", directions);
  PYDRIFT_CHECK(directions.size(1) == x.size(1) && directions.size(2) == x.size(2) && directions.size(3) == x.size(3) &&
                    on_one_device(directions, x),
                op, ": directions must be of the shape of the images and on the device of x, got ",
                describe(directions), " for ", describe(x));
  check_vector(op, "direction", direction, model.numel(), ScalarType::Int, x);
  BoundaryTask task = walk_task(program, x, parameters, model, image, label, norm, max_steps, lower, upper);
  task.directions = directions.const_data_ptr<float>(), task.direction = direction.const_data_ptr<int32_t>();
  task.num_directions = directions.size(0);
  return finish_walks<kRun>(op, task, x);
}

}  // namespace pydrift
