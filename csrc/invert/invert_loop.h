// The whole inversion of a block of restarts, one restart per lane, on one thread. No torch.
//
// A block holds up to InvertWorker::num_slots restarts of one model. Each round evaluates every restart once, and those
// that go on take a step. A restart that ends is evaluated once more, without jitter, for its final confidence; then
// the next one of the queue takes its place.
#pragma once

#include <cmath>

#include "common/philox.h"
#include "invert/ascent_lanes.h"
#include "invert/invert_worker.h"
#include "invert/roll_lanes.h"
#include "network/cpu/passes_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

class RestartBlock {
 public:
  explicit RestartBlock(const InvertWorker& worker)
      : worker_(worker),
        network_{*worker.plan, worker.weights, worker.shared, worker.group, worker.codes, worker.code_bytes},
        input_(worker.task->program->input),
        num_values_(worker.task->values_per_sample()) {}

  void run() {
    while (num_slots_ < worker_.num_slots && take()) {
    }
    while (num_slots_ > 0) {
      round();
      for (int32_t s = num_slots_ - 1; s >= 0; --s) {
        if (!worker_.slots[s].ended) continue;
        if (!refill(s)) leave(s);
      }
    }
  }

 private:
  int32_t num_groups() const { return (num_slots_ + kLanes - 1) / kLanes; }

  bool take() {
    if (!refill(num_slots_)) return false;
    ++num_slots_;
    return true;
  }

  // The values of slot `s` are kLanes apart.
  AscentState state_of(int32_t s) const {
    const int64_t size = int64_t{num_values_} * kLanes;
    float* x = worker_.states + s / kLanes * 3 * size + s % kLanes;
    return {x, x + size, x + 2 * size};
  }

  // The next restart of the queue into slot `s`.
  bool refill(int32_t s) {
    const int64_t sample = worker_.next(worker_.queue);
    if (sample < 0) return false;
    InvertSlot& slot = worker_.slots[s];
    slot.sample = sample;
    slot.best_cost = INFINITY;
    slot.steps_without_improvement = slot.steps = 0;
    slot.active = true;
    slot.ended = false;
    const AscentState state = state_of(s);
    const float* x = worker_.task->x + sample * num_values_;
    for (int64_t i = 0; i < num_values_; ++i) {
      state.x[i * kLanes] = x[i];
      state.first[i * kLanes] = state.second[i * kLanes] = 0.0f;
    }
    settle(slot);
    return true;
  }

  // The last slot takes the place of `s`.
  void leave(int32_t s) {
    const int32_t last = --num_slots_;
    if (s == last) return;
    worker_.slots[s] = worker_.slots[last];
    const AscentState from = state_of(last), to = state_of(s);
    for (int64_t i = 0; i < num_values_ * kLanes; i += kLanes) {
      to.x[i] = from.x[i];
      to.first[i] = from.first[i];
      to.second[i] = from.second[i];
    }
  }

  // Prepares the slot for the next round: its image is rolled, or left as it is for the final evaluation.
  void settle(InvertSlot& slot) const {
    const InvertTask& task = *worker_.task;
    slot.label = task.label[slot.sample];
    slot.is_final = !slot.active || slot.steps >= task.max_steps;
    slot.shift = {0, 0};
    if (slot.is_final) return;
    slot.shift = jitter_shift(task.seed, slot.label, task.restart[slot.sample], slot.steps, task.jitter);
  }

  void round() {
    bool any_step = false;
    forward(network_, num_groups(), [this](int32_t g) { put_images(g); });
    for (int32_t g = 0; g < num_groups(); ++g) compute_logit_gradient(g);
    for (int32_t s = 0; s < num_slots_; ++s) any_step |= !worker_.slots[s].is_final;
    if (any_step) backward(network_, num_groups(), [this](int32_t g) { ascend(g); });
    for (int32_t s = 0; s < num_slots_; ++s) finish_round(s);
  }

  int32_t lanes_in_use(int32_t g) const {
    const int32_t left = num_slots_ - g * kLanes;
    return left < kLanes ? left : kLanes;
  }

  struct Shifts {
    IntVec down, right;
  };

  Shifts shifts_of(int32_t g) const {
    Shifts shifts = {};
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      const Shift& shift = worker_.slots[g * kLanes + lane].shift;
      shifts.down[lane] = shift.down, shifts.right[lane] = shift.right;
    }
    return shifts;
  }

  void put_images(int32_t g) const {
    const Map map = image_map(network_.plan.input, input_);
    const Shifts shifts = shifts_of(g);
    roll(state_of(g * kLanes).x, dense_map(input_), network_.at(map, g), map, shifts.down, shifts.right, worker_.line);
  }

  // log p of the labels, and its gradient in the logits: one-hot minus softmax. 1 - p is never computed, so the
  // gradient keeps its digits where p is nearly 1.
  void compute_logit_gradient(int32_t g) const {
    const PlanView& plan = network_.plan;
    const float* logits = network_.at(plan.logits, g);
    float* gradient = network_.at(plan.logits_gradient, g);
    const int64_t pitch = plan.logits.pitch;
    IntVec label = {};
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) label[lane] = worker_.slots[g * kLanes + lane].label;
    Vec largest = load(logits), poison = largest * 0.0f;  // NaN where any logit is not finite
    for (int32_t k = 1; k < plan.num_classes; ++k) {
      const Vec logit = load(logits + k * pitch);
      largest = maximum(largest, logit);
      poison += logit * 0.0f;
    }
    Vec own = {}, others = {}, lost = {};  // the sum is compensated (Kahan), for networks of many classes
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      const Vec e = exponential(load(logits + k * pitch) - largest);
      store(gradient + k * pitch, -e);
      own = label == k ? e : own;
      const Vec term = (label == k ? Vec{} : e) - lost, next = others + term;
      lost = (next - others) - term;
      others = next;
    }
    const Vec scale = 1.0f / (own + others) + poison;
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      float* of_class = gradient + k * pitch;
      store(of_class, (label == k ? others : load(of_class)) * scale);
    }
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      InvertSlot& slot = worker_.slots[g * kLanes + lane];
      const double margin = static_cast<double>(logits[slot.label * pitch + lane]) - largest[lane], rest = others[lane];
      const double log_probability = margin == 0.0 ? -std::log1p(rest) : margin - std::log(own[lane] + rest);
      slot.log_probability = static_cast<float>(log_probability) + poison[lane];
    }
  }

  void ascend(int32_t g) const {
    const Map map = image_map(network_.plan.input_gradient, input_);
    const Shifts shifts = shifts_of(g);
    roll(network_.at(map, g), map, worker_.gradient, dense_map(input_), -shifts.down, -shifts.right, worker_.line);
    const Vec poison = not_finite(worker_.gradient, num_values_);
    AscentSteps steps = {};
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      InvertSlot& slot = worker_.slots[g * kLanes + lane];
      if (slot.is_final) continue;
      // A ReLU can hide a NaN of the logits from the gradient; the ascent stops in that case too.
      const bool finite = poison[lane] == 0.0f && slot.log_probability == slot.log_probability;
      const AscentStep step = begin_step(stop_state_of(slot), worker_.task->ascent, 0, finite);
      steps.taken[lane] = step.taken ? -1 : 0;
      steps.step_size[lane] = step.step_size, steps.second_scale[lane] = step.second_scale;
    }
    const AscentConstants& constants = worker_.task->ascent;
    const auto run =
        constants.optimizer == Optimizer::kAdam ? ascend_group<Optimizer::kAdam> : ascend_group<Optimizer::kMomentum>;
    run(constants, steps, input_.channels, input_.height, input_.width, state_of(g * kLanes), worker_.gradient,
        worker_.line);
  }

  // What the stop rule reads and writes; the pixels are in the lanes.
  static AscentTensors stop_state_of(InvertSlot& slot) {
    AscentTensors state{};
    state.log_probability = &slot.log_probability;
    state.best_cost = &slot.best_cost;
    state.steps_without_improvement = &slot.steps_without_improvement;
    state.steps = &slot.steps;
    state.active = &slot.active;
    return state;
  }

  void finish_round(int32_t s) const {
    InvertSlot& slot = worker_.slots[s];
    if (!slot.is_final) return settle(slot);
    const InvertTask& task = *worker_.task;
    const AscentState state = state_of(s);
    for (int64_t i = 0; i < num_values_; ++i) task.x[slot.sample * num_values_ + i] = state.x[i * kLanes];
    task.confidence[slot.sample] = static_cast<float>(std::exp(static_cast<double>(slot.log_probability)));
    task.loss[slot.sample] = -slot.log_probability;
    task.steps[slot.sample] = slot.steps;
    slot.ended = true;
  }

  const InvertWorker& worker_;
  const Network network_;
  const LayerShape input_;
  const int32_t num_values_;
  int32_t num_slots_ = 0;
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
