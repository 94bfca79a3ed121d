// pydrift::min_gd and pydrift::blind_walk: from images to where the network's answer changes. Checks and signatures.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "boundary/boundary_walks_task.h"
#include "boundary/walk_options.h"
#include "network/program/check.h"

namespace pydrift {

// Of the images, the models and the walks, for both ops.
struct WalkTensors {
  const Tensor &x, &parameters, &model, &image, &label, &norm;
};

inline Program check_walks(const char* op, const WalkTensors& tensors, const std::vector<int64_t>& codes) {
  const Tensor& x = tensors.x;
  check_images(op, "x", x);
  Program program = check_program(op, x, codes);
  check_matrix(op, "parameters", tensors.parameters, -1, program.num_parameters, ScalarType::Float, x);
  const int64_t num_walks = tensors.model.numel();
  check_vector(op, "model", tensors.model, num_walks, ScalarType::Int, x);
  check_vector(op, "image", tensors.image, num_walks, ScalarType::Int, x);
  check_vector(op, "label", tensors.label, num_walks, ScalarType::Int, x);
  check_vector(op, "norm", tensors.norm, num_walks, ScalarType::Int, x);
  return program;
}

// All but the outputs, and what only one of the ops has.
template <class Options>
BoundaryTask walk_task(const Program& program, const WalkTensors& tensors, const Options& options) {
  BoundaryTask task{};
  task.program = &program;
  task.x = tensors.x.const_data_ptr<float>(), task.parameters = tensors.parameters.const_data_ptr<float>();
  task.model = tensors.model.const_data_ptr<int32_t>(), task.image = tensors.image.const_data_ptr<int32_t>();
  task.label = tensors.label.const_data_ptr<int32_t>(), task.norm = tensors.norm.const_data_ptr<int32_t>();
  task.num_models = tensors.parameters.size(0), task.num_images = tensors.x.size(0);
  task.num_walks = tensors.model.size(0);
  task.max_steps = static_cast<int32_t>(options.max_steps);
  task.lower = static_cast<float>(options.lower), task.upper = static_cast<float>(options.upper);
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

// The boxed functions of a device: kRun does the work on checked arguments. The scalars are those of the options.
template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index), class Types = MinGdOptions::Types>
struct MinGdOp;

template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index), class... Scalars>
struct MinGdOp<kRun, std::tuple<Scalars...>> {
  static std::tuple<Tensor, Tensor, Tensor> call(const Tensor x, const Tensor parameters, const Tensor model,
                                                 const Tensor image, const Tensor label, const Tensor norm,
                                                 std::vector<int64_t> program_codes, Scalars... scalars) {
    const char* op = "min_gd";
    const MinGdOptions options{scalars...};
    const WalkTensors tensors{x, parameters, model, image, label, norm};
    const Program program = check_walks(op, tensors, program_codes);
    check_min_gd_options(op, options);
    BoundaryTask task = walk_task(program, tensors, options);
    task.step[static_cast<int32_t>(Norm::kLinf)] = static_cast<float>(options.linf_step);
    task.step[static_cast<int32_t>(Norm::kL2)] = static_cast<float>(options.l2_step);
    task.step[static_cast<int32_t>(Norm::kL1)] = static_cast<float>(options.l1_step);
    task.coordinates = static_cast<int32_t>(options.l1_coordinates);
    task.gap = static_cast<float>(options.l1_gap);
    return finish_walks<kRun>(op, task, x);
  }
};

template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index),
          class Types = BlindWalkOptions::Types>
struct BlindWalkOp;

template <void (*kRun)(const BoundaryTask&, const char* op, int32_t device_index), class... Scalars>
struct BlindWalkOp<kRun, std::tuple<Scalars...>> {
  static std::tuple<Tensor, Tensor, Tensor> call(const Tensor x, const Tensor directions, const Tensor parameters,
                                                 const Tensor model, const Tensor image, const Tensor direction,
                                                 const Tensor label, const Tensor norm,
                                                 std::vector<int64_t> program_codes, Scalars... scalars) {
    const char* op = "blind_walk";
    const BlindWalkOptions options{scalars...};
    const WalkTensors tensors{x, parameters, model, image, label, norm};
    const Program program = check_walks(op, tensors, program_codes);
    check_walk_options(op, options);
    check_images(op, "directions", directions);
    PYDRIFT_CHECK(directions.size(1) == x.size(1) && directions.size(2) == x.size(2) &&
                      directions.size(3) == x.size(3) && on_one_device(directions, x),
                  op, ": directions must be of the shape of the images and on the device of x, got ",
                  describe(directions), " for ", describe(x));
    check_vector(op, "direction", direction, model.numel(), ScalarType::Int, x);
    BoundaryTask task = walk_task(program, tensors, options);
    task.directions = directions.const_data_ptr<float>(), task.direction = direction.const_data_ptr<int32_t>();
    task.num_directions = directions.size(0);
    return finish_walks<kRun>(op, task, x);
  }
};

}  // namespace pydrift
