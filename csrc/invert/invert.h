// pydrift::invert: whole inversions, start to stop. What both devices share: check and signature.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "invert/ascent_options.h"
#include "invert/invert_task.h"
#include "network/program/check.h"

namespace pydrift {

// The only validation of the tensors, for both devices. The values of the ids are checked where the host can read them.
inline Program check_invert(const Tensor& x, const Tensor& parameters, const Tensor& model, const Tensor& label,
                            const Tensor& restart, const std::vector<int64_t>& codes) {
  check_images("invert", "x", x);
  Program program = check_program("invert", x, codes);
  check_matrix("invert", "parameters", parameters, -1, program.num_parameters, ScalarType::Float, x);
  check_vector("invert", "model", model, x.size(0), ScalarType::Int, x);
  check_vector("invert", "label", label, x.size(0), ScalarType::Int, x);
  check_vector("invert", "restart", restart, x.size(0), ScalarType::Int, x);
  return program;
}

// The boxed function of a device: kRun does the work on checked arguments. The last scalars are those of AscentOptions.
template <void (*kRun)(const InvertTask&, int32_t device_index), class Types = AscentOptions::Types>
struct InvertOp;

template <void (*kRun)(const InvertTask&, int32_t device_index), class... Scalars>
struct InvertOp<kRun, std::tuple<Scalars...>> {
  static std::tuple<Tensor, Tensor, Tensor> call(const Tensor x, const Tensor parameters, const Tensor model,
                                                 const Tensor label, const Tensor restart,
                                                 std::vector<int64_t> program_codes, int64_t seed, int64_t jitter,
                                                 int64_t max_steps, std::string precision, Scalars... scalars) {
    const AscentOptions options{scalars...};
    check_ascent_options("invert", options);
    PYDRIFT_CHECK(jitter >= 0 && jitter < (1 << 24), "invert: jitter must be in [0, 2^24), got ", jitter);
    PYDRIFT_CHECK(max_steps >= 0 && max_steps < (int64_t{1} << 31), "invert: max_steps must be in [0, 2^31), got ",
                  max_steps);
    const Program program = check_invert(x, parameters, model, label, restart, program_codes);
    const Tensor confidence = torch::stable::new_empty(x, {x.size(0)});
    const Tensor loss = torch::stable::new_empty(x, {x.size(0)});
    const Tensor steps = torch::stable::new_empty(x, {x.size(0)}, ScalarType::Int);
    const InvertTask task{&program,
                          parameters.const_data_ptr<float>(),
                          x.mutable_data_ptr<float>(),
                          model.const_data_ptr<int32_t>(),
                          label.const_data_ptr<int32_t>(),
                          restart.const_data_ptr<int32_t>(),
                          confidence.mutable_data_ptr<float>(),
                          loss.mutable_data_ptr<float>(),
                          steps.mutable_data_ptr<int32_t>(),
                          parameters.size(0),
                          x.size(0),
                          static_cast<uint64_t>(seed),
                          static_cast<int32_t>(jitter),
                          static_cast<int32_t>(max_steps),
                          ascent_constants(options),
                          read_precision("invert", precision, x.is_cpu())};
    if (task.num_samples > 0) kRun(task, x.get_device_index());
    return {confidence, loss, steps};
  }
};

}  // namespace pydrift
