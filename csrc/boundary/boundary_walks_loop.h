// Walks from images to where the network's answer changes, one walk per lane, on one thread. No torch.
//
// A block holds up to WalkWorker::num_slots walks through one model. Each round evaluates every walk once. A walk that
// has crossed or has no steps left is written out, and the next one of the queue takes its place.
#pragma once

#include <cmath>

#include "boundary/blind_walk_lanes.h"
#include "boundary/boundary_walks_worker.h"
#include "boundary/min_gd_lanes.h"
#include "network/cpu/passes_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// Walk: MinGd or BlindWalk. They say where a walk is, when it has crossed and what its next step is.
template <class Walk>
class WalkBlock {
 public:
  explicit WalkBlock(const WalkWorker& worker)
      : worker_(worker),
        task_(*worker.task),
        network_{*worker.plan, worker.weights, worker.shared, worker.group, worker.codes, worker.code_bytes},
        input_(task_.program->input),
        num_values_(task_.values_per_image()) {}

  void run() {
    while (num_slots_ < worker_.num_slots && take()) {
    }
    while (num_slots_ > 0) {
      round();
      for (int32_t s = num_slots_ - 1; s >= 0; --s) {
        if (!worker_.slots[s].ended) continue;
        write(s);
        if (!refill(s)) leave(s);
      }
    }
  }

 private:
  int32_t num_groups() const { return (num_slots_ + kLanes - 1) / kLanes; }

  int32_t lanes_in_use(int32_t g) const {
    const int32_t left = num_slots_ - g * kLanes;
    return left < kLanes ? left : kLanes;
  }

  WalkState state_of_group(int32_t g) const {
    const int64_t size = int64_t{num_values_} * kLanes;
    float* first = worker_.states + g * 2 * size;
    return {first, first + size};
  }

  // The values of slot `s` are kLanes apart.
  WalkState state_of(int32_t s) const {
    const WalkState state = state_of_group(s / kLanes);
    return {state.image + s % kLanes, state.other + s % kLanes};
  }

  bool take() {
    if (!refill(num_slots_)) return false;
    ++num_slots_;
    return true;
  }

  // The next walk of the queue into slot `s`.
  bool refill(int32_t s) {
    const int64_t walk = worker_.next(worker_.queue);
    if (walk < 0) return false;
    worker_.slots[s] = {walk, task_.label[walk], static_cast<Norm>(task_.norm[walk]), 0, 0, false, false};
    const WalkState state = state_of(s);
    copy(task_.x + int64_t{task_.image[walk]} * num_values_, state.image);
    if (Walk::kHasDirection) copy(task_.directions + int64_t{task_.direction[walk]} * num_values_, state.other);
    return true;
  }

  void copy(const float* from, float* lane) const {
    for (int64_t i = 0; i < num_values_; ++i) lane[i * kLanes] = from[i];
  }

  // The last slot takes the place of `s`.
  void leave(int32_t s) {
    const int32_t last = --num_slots_;
    if (s == last) return;
    worker_.slots[s] = worker_.slots[last];
    const WalkState from = state_of(last), to = state_of(s);
    for (int64_t i = 0; i < num_values_ * kLanes; i += kLanes) to.image[i] = from.image[i];
    if (!Walk::kHasDirection) return;
    for (int64_t i = 0; i < num_values_ * kLanes; i += kLanes) to.other[i] = from.other[i];
  }

  void round() {
    forward(network_, num_groups(), [this](int32_t g) { put_images(g); });
    bool any_step = false;
    for (int32_t g = 0; g < num_groups(); ++g) read_logits(g);
    for (int32_t s = 0; s < num_slots_; ++s) any_step |= !worker_.slots[s].ended;
    if (!any_step) return;
    if constexpr (Walk::kNeedsGradient) {
      backward(network_, num_groups(), [this](int32_t g) {
        const Map map = image_map(network_.plan.input_gradient, input_);
        Walk::step(task_, worker_.slots + g * kLanes, lanes_in_use(g), network_.at(map, g), map, dense_map(input_),
                   state_of_group(g));
      });
    }
    for (int32_t s = 0; s < num_slots_; ++s) worker_.slots[s].steps += !worker_.slots[s].ended;
  }

  void put_images(int32_t g) const {
    const Map map = image_map(network_.plan.input, input_);
    float* to = network_.at(map, g);
    const WalkState state = state_of_group(g);
    const typename Walk::Place place(worker_.slots + g * kLanes, lanes_in_use(g));
    for_each_element(map, map, [&](int64_t at, int64_t, int32_t, int64_t number) {
      store(to + at, place.value(task_, state, number * kLanes));
    });
  }

  // Which walks have crossed or have no steps left.
  void read_logits(int32_t g) const {
    const PlanView& plan = network_.plan;
    const float* logits = network_.at(plan.logits, g);
    const int64_t pitch = plan.logits.pitch;
    Vec best = load(logits), poison = {};
    IntVec prediction = {};
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      const Vec logit = load(logits + k * pitch);
      poison += logit * 0.0f;  // NaN where any logit is not finite
      const IntVec wins = logit > best;
      prediction = wins ? same_code(k) : prediction;
      best = wins ? logit : best;
    }
    IntVec label = {};
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      WalkSlot& slot = worker_.slots[g * kLanes + lane];
      label[lane] = slot.label;
      slot.failed = poison[lane] != 0.0f;
      slot.prediction = slot.failed ? -1 : prediction[lane];
      slot.ended = slot.failed || Walk::has_crossed(slot.prediction, slot.label) || slot.steps >= task_.max_steps;
    }
    if constexpr (Walk::kNeedsGradient) {  // of (the label's logit - the largest logit)
      float* gradient = network_.at(plan.logits_gradient, g);
      const Vec one = all(1.0f), none = {};
      for (int32_t k = 0; k < plan.num_classes; ++k) {
        store(gradient + k * plan.logits_gradient.pitch, (label == k ? one : none) - (prediction == k ? one : none));
      }
    }
  }

  void write(int32_t s) const {
    const WalkSlot& slot = worker_.slots[s];
    const WalkState state = state_of(s);
    const float* from = task_.x + int64_t{task_.image[slot.walk]} * num_values_;
    double largest = 0.0, sum = 0.0;
    for (int64_t i = 0; i < num_values_; ++i) {
      const double change = std::fabs(static_cast<double>(Walk::value(task_, slot, state, i * kLanes)) - from[i]);
      if (change > largest) largest = change;
      sum += slot.norm == Norm::kL2 ? change * change : change;
    }
    const double norm = slot.norm == Norm::kLinf ? largest : slot.norm == Norm::kL2 ? std::sqrt(sum) : sum;
    task_.distance[slot.walk] = slot.failed ? NAN : static_cast<float>(norm);
    task_.steps[slot.walk] = slot.steps;
    task_.prediction[slot.walk] = slot.prediction;
  }

  const WalkWorker& worker_;
  const BoundaryTask& task_;
  const Network network_;
  const LayerShape input_;
  const int32_t num_values_;
  int32_t num_slots_ = 0;
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
