// The steps of one model on one thread, its samples in the lanes. No torch.
//
// A batch is cut into slices: as many samples as all groups have lanes. The gradients of the slices are added in order.
#pragma once

#include <cmath>

#include "network/cpu/weight_gradient_lanes.h"
#include "train/optimizer_lanes.h"
#include "train/shadow_train_worker.h"

namespace pydrift {
namespace PYDRIFT_LANES {

class ShadowTrainer {
 public:
  explicit ShadowTrainer(const ShadowTrainWorker& worker)
      : worker_(worker),
        task_(*worker.task),
        hyperparameters_(task_.hyperparameters[worker.model]),
        network_{*worker.view,
                 worker.weights,
                 worker.shared,
                 worker.groups,
                 worker.codes,
                 worker.plan->code_bytes,
                 worker.plan->group_floats},
        input_(task_.program->input) {}

  void run() {
    const int32_t num_steps = task_.num_steps[worker_.model], batch_size = task_.batch_size[worker_.model];
    for (int32_t step = 0; step < num_steps; ++step) {
      take_step(int64_t{step} * batch_size, batch_size, task_.steps_done[worker_.model] + step + 1,
                worker_.learning_rate[step]);
    }
    task_.loss[worker_.model] = static_cast<float>(total_loss_ / (static_cast<double>(num_steps) * batch_size));
  }

 private:
  void take_step(int64_t first, int32_t batch_size, int64_t step, double learning_rate) {
    pack_weights(*worker_.plan, worker_.parameters, worker_.weights);
    for (int64_t i = 0; i < task_.program->num_parameters; ++i) worker_.gradients[i] = 0.0f;
    for (int32_t begin = 0; begin < batch_size; begin += kMaxGroups * kLanes) {
      const int32_t left = batch_size - begin;
      learn_slice(first + begin, left < kMaxGroups * kLanes ? left : kMaxGroups * kLanes, batch_size);
    }
    const PlanView& plan = network_.plan;
    const OptimizerStep factors = optimizer_step(task_.optimizer, hyperparameters_, learning_rate, step);
    for (int32_t i = 0; i < plan.num_stages; ++i) {
      const Stage& stage = plan.stages[i];
      if (!stage.has_weights()) continue;  // scales and shifts stay as they are
      const int64_t at = stage.weight_parameters, count = stage.bias_parameters + stage.out.channels - at;
      const float* gradients = worker_.gradients + at;
      if (task_.optimizer == TrainOptimizer::kAdam) {
        adam_step(factors, count, gradients, worker_.parameters + at, worker_.first_moment + at,
                  worker_.second_moment + at);
      } else {
        sgd_step(factors, count, gradients, worker_.parameters + at, worker_.first_moment + at);
      }
    }
  }

  void learn_slice(int64_t first, int32_t count, int32_t batch_size) {
    const int32_t num_groups = (count + kLanes - 1) / kLanes;
    const auto in_use = [&](int32_t g) { return count - g * kLanes < kLanes ? count - g * kLanes : kLanes; };
    forward_from_weights(network_, num_groups, worker_.parameters,
                         [&](int32_t g) { put_images(g, first + g * kLanes, in_use(g)); });
    for (int32_t g = 0; g < num_groups; ++g) compute_loss_and_gradient(g, first + g * kLanes, in_use(g), batch_size);
    backward_to_weights(network_, num_groups, worker_.parameters, worker_.gradients, worker_.scratch);
  }

  // Lanes without a sample keep their old values: their gradients are zero.
  void put_images(int32_t g, int64_t first, int32_t count) const {
    const Map& map = network_.plan.input;
    const int32_t row = map.all_groups ? input_.width * map.pitch : map.row;
    const int32_t plane = map.all_groups ? input_.height * row : map.plane;
    for (int32_t lane = 0; lane < count; ++lane) {
      const int64_t image = worker_.order[first + lane];
      const Augmentation augmentation =
          worker_.augmentation == nullptr ? Augmentation{0, 0, 0} : worker_.augmentation[first + lane];
      float* to = network_.at(map, g) + lane;
      if (task_.bytes != nullptr) {
        put_image(task_.bytes + image * input_.size(), augmentation, to, map.pitch, row, plane,
                  [](uint8_t value) { return static_cast<float>(value) / 255.0f; });
      } else {
        put_image(task_.floats + image * input_.size(), augmentation, to, map.pitch, row, plane,
                  [](float value) { return value; });
      }
    }
  }

  template <class Pixel, class Value>
  void put_image(const Pixel* from, Augmentation augmentation, float* to, int32_t pitch, int32_t row, int32_t plane,
                 Value value) const {
    for (int32_t c = 0; c < input_.channels; ++c) {
      for (int32_t y = 0; y < input_.height; ++y) {
        const int32_t from_y = y - augmentation.down;
        float* pixel = to + c * int64_t{plane} + y * int64_t{row};
        const Pixel* line = from + (int64_t{c} * input_.height + from_y) * input_.width;
        const bool inside = from_y >= 0 && from_y < input_.height;
        for (int32_t x = 0; x < input_.width; ++x, pixel += pitch) {
          const int32_t from_x = (augmentation.flip ? input_.width - 1 - x : x) - augmentation.right;
          *pixel = inside && from_x >= 0 && from_x < input_.width ? value(line[from_x]) : 0.0f;
        }
      }
    }
  }

  // The loss, and its gradient in the logits: (softmax - smoothed label) / batch size.
  void compute_loss_and_gradient(int32_t g, int64_t first, int32_t count, int32_t batch_size) {
    const PlanView& plan = network_.plan;
    const float* logits = network_.at(plan.logits, g);
    float* gradient = network_.at(plan.logits_gradient, g);
    const int64_t pitch = plan.logits.pitch;
    const float smoothed = static_cast<float>(hyperparameters_.label_smoothing / plan.num_classes);
    const float own = static_cast<float>(1.0 - hyperparameters_.label_smoothing);
    IntVec label = same_code(-1);
    Vec share = {};  // zero where there is no sample
    for (int32_t lane = 0; lane < count; ++lane) {
      label[lane] = task_.label[worker_.order[first + lane]];
      share[lane] = 1.0f / static_cast<float>(batch_size);
    }
    Vec largest = load(logits);
    for (int32_t k = 1; k < plan.num_classes; ++k) largest = maximum(largest, load(logits + k * pitch));
    Vec total = {}, lead = {}, sum = {};  // exponentials; the label's logit and all logits minus the largest
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      const Vec logit = load(logits + k * pitch) - largest, e = exponential(logit);
      store(gradient + k * pitch, e);
      total += e, sum += logit;
      lead = label == k ? logit : lead;
    }
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      const Vec target = (label == k ? all(own) : Vec{}) + smoothed;
      store(gradient + k * pitch, (load(gradient + k * pitch) / total - target) * share);
    }
    for (int32_t lane = 0; lane < count; ++lane) {
      total_loss_ += std::log(static_cast<double>(total[lane])) -
                     (1.0 - hyperparameters_.label_smoothing) * lead[lane] -
                     hyperparameters_.label_smoothing / plan.num_classes * sum[lane];
    }
  }

  const ShadowTrainWorker& worker_;
  const ShadowTrainTask& task_;
  const TrainHyperparameters& hyperparameters_;
  const Network network_;
  const LayerShape input_;
  double total_loss_ = 0.0;
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
