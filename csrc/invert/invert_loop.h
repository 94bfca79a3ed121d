// The whole inversion of a block of restarts, one restart per lane, on one thread. No torch.
//
// A block holds up to InvertWorker::num_slots restarts of one model. In each round every restart is looked at once, and those
// that go on take a step. One that ends is looked at once more, without jitter, for its final confidence; then the next
// of the queue takes its place. The network wants restarts in lanes, the ascent wants images: they meet in transposes,
// which roll the images on their way.
#pragma once

#include <cmath>

#include "arch/passes_lanes.h"
#include "common/philox.h"
#include "invert/invert_worker.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// A plane rolled down and to the right: one rotation of its values, then the columns that crossed the border are moved
// to the row they belong to.
PYDRIFT_INLINE void roll_plane(const float* from, float* to, int32_t height, int32_t width, Shift shift) {
  const int32_t down = (shift.down % height + height) % height;
  int32_t right = (shift.right % width + width) % width;
  if (2 * right > width) right -= width;
  const int32_t size = height * width;
  const int32_t rotation = ((down * width + right) % size + size) % size;
  std::memcpy(to + rotation, from, sizeof(float) * (size - rotation));
  std::memcpy(to, from + (size - rotation), sizeof(float) * rotation);
  for (int32_t x = 0; x < right; ++x) {
    const float first = to[x];
    for (int32_t y = 0; y + 1 < height; ++y) to[y * width + x] = to[(y + 1) * width + x];
    to[(height - 1) * width + x] = first;
  }
  for (int32_t x = width + right; right < 0 && x < width; ++x) {
    const float last = to[(height - 1) * width + x];
    for (int32_t y = height - 1; y > 0; --y) to[y * width + x] = to[(y - 1) * width + x];
    to[x] = last;
  }
}

class Block {
 public:
  explicit Block(const InvertWorker& worker)
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

  // The next restart of the queue into slot `s`.
  bool refill(int32_t s) {
    const int64_t sample = worker_.next(worker_.queue);
    if (sample < 0) return false;
    InvertSlot& slot = worker_.slots[s];
    slot.sample = sample;
    slot.best_cost = INFINITY;
    slot.stale = slot.steps = 0;
    slot.active = true;
    slot.ended = false;
    if (slot.x == nullptr) slot.x = worker_.states + int64_t{3} * s * num_values_;
    std::memcpy(slot.x, worker_.task->x + sample * num_values_, sizeof(float) * num_values_);
    std::memset(slot.x + num_values_, 0, sizeof(float) * 2 * num_values_);
    settle(slot);
    return true;
  }

  // The last slot takes the place of `s`.
  void leave(int32_t s) {
    InvertSlot& slot = worker_.slots[s];
    InvertSlot& last = worker_.slots[--num_slots_];
    float* state = slot.x;
    slot = last;
    last.x = state;
  }

  // What the next round sees of the slot: its image rolled, or plain if it takes no more steps.
  void settle(InvertSlot& slot) const {
    const InvertTask& task = *worker_.task;
    slot.label = task.label[slot.sample];
    slot.final_look = !slot.active || slot.steps >= task.max_steps;
    slot.shift = slot.final_look ? Shift{0, 0}
                                 : jitter_shift(task.seed, slot.label, task.restart[slot.sample], slot.steps, task.jitter);
  }

  void round() {
    bool any_step = false;
    forward(network_, num_groups(), [this](int32_t g) { put_images(g); });
    for (int32_t g = 0; g < num_groups(); ++g) judge(g);
    for (int32_t s = 0; s < num_slots_; ++s) any_step |= !worker_.slots[s].final_look;
    if (any_step) backward(network_, num_groups(), [this](int32_t g) { ascend(g); });
    for (int32_t s = 0; s < num_slots_; ++s) finish_round(worker_.slots[s]);
  }

  int32_t lanes_in_use(int32_t g) const {
    const int32_t left = num_slots_ - g * kLanes;
    return left < kLanes ? left : kLanes;
  }

  float* image_row(int32_t lane) const { return worker_.images + lane * worker_.image_pitch; }

  // function(first value of a chunk of up to kLanes, its offset in the map, how many values it has)
  template <class Function>
  void for_each_chunk(const Map& map, Function function) const {
    const bool gapless = map.gapless();
    const int32_t length = gapless ? num_values_ : map.width, num_rows = gapless ? 1 : map.channels * map.height;
    for (int32_t row = 0; row < num_rows; ++row) {
      const int64_t begin = gapless ? 0 : int64_t{row / map.height} * map.plane + map.at(row % map.height, 0);
      for (int32_t x = 0; x < length; x += kLanes) {
        const int32_t count = length - x < kLanes ? length - x : kLanes;
        function(row * length + x, begin + int64_t{x} * map.pitch, count);
      }
    }
  }

  Map image_map(const Map& map) const {
    Map shaped = map;
    shaped.channels = input_.channels, shaped.height = input_.height, shaped.width = input_.width;
    if (map.all_groups) shaped.row = input_.width * map.pitch, shaped.plane = input_.height * shaped.row;
    return shaped;
  }

  void roll(const float* from, float* to, Shift shift) const {
    for (int32_t c = 0; c < input_.channels; ++c) {
      const int32_t plane = c * input_.plane();
      roll_plane(from + plane, to + plane, input_.height, input_.width, shift);
    }
  }

  void put_images(int32_t g) const {
    const Map map = image_map(network_.plan.input);
    const float* images[kLanes];
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      images[lane] = image_row(lane);
      if (lane >= lanes_in_use(g)) continue;
      const InvertSlot& slot = worker_.slots[g * kLanes + lane];
      if (slot.shift.any()) {
        roll(slot.x, image_row(lane), slot.shift);
      } else {
        images[lane] = slot.x;
      }
    }
    float* to = network_.at(map, g);
    for_each_chunk(map, [&](int32_t value, int64_t at, int32_t count) {
      Vec rows[kLanes];
      for (int32_t lane = 0; lane < kLanes; ++lane) rows[lane] = load(images[lane] + value);
      transpose(rows);
      for (int32_t i = 0; i < count; ++i) store(to + at + i * map.pitch, rows[i]);
    });
  }

  // log p of the labels, and its gradient in the logits: one-hot minus softmax.
  void judge(int32_t g) const {
    const PlanView& plan = network_.plan;
    const float* logits = network_.at(plan.logits, g);
    float* gradient = network_.at(plan.logits_gradient, g);
    const int64_t pitch = plan.logits.pitch;
    Vec largest = load(logits), poison = largest * 0.0f;  // NaN where any logit is not finite
    for (int32_t k = 1; k < plan.num_classes; ++k) {
      const Vec logit = load(logits + k * pitch);
      largest = maximum(largest, logit);
      poison += logit * 0.0f;
    }
    Vec sum = {}, lost = {};  // compensated, for the sake of a thousand classes
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      const Vec e = exponential(load(logits + k * pitch) - largest), next = sum + (e - lost);
      store(gradient + k * pitch, e);
      lost = (next - sum) - (e - lost);
      sum = next;
    }
    const Vec scale = -1.0f / sum + poison;
    for (int32_t k = 0; k < plan.num_classes; ++k) {
      store(gradient + k * pitch, load(gradient + k * pitch) * scale);
    }
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      InvertSlot& slot = worker_.slots[g * kLanes + lane];
      const float margin = logits[slot.label * pitch + lane] - largest[lane];
      slot.log_probability = static_cast<float>(margin - std::log(static_cast<double>(sum[lane]))) + poison[lane];
      gradient[slot.label * pitch + lane] += 1.0f;
    }
  }

  void ascend(int32_t g) const {
    const Map map = image_map(network_.plan.input_gradient);
    const float* from = network_.at(map, g);
    for_each_chunk(map, [&](int32_t value, int64_t at, int32_t count) {
      Vec rows[kLanes];
      for (int32_t i = 0; i < kLanes; ++i) rows[i] = load(from + at + (i < count ? i : 0) * map.pitch);
      transpose(rows);
      for (int32_t lane = 0; lane < kLanes; ++lane) store(image_row(lane) + value, rows[lane]);
    });
    for (int32_t lane = 0; lane < lanes_in_use(g); ++lane) {
      InvertSlot& slot = worker_.slots[g * kLanes + lane];
      if (slot.final_look) continue;
      // A ReLU may have hidden the NaN from the gradient; with it the ascent stops.
      if (slot.log_probability != slot.log_probability) image_row(lane)[0] = slot.log_probability;
      const float* gradient = image_row(lane);
      if (slot.shift.any()) {
        roll(gradient, worker_.gradient, {-slot.shift.down, -slot.shift.right});
        gradient = worker_.gradient;
      }
      worker_.update(tensors_of(slot, gradient), worker_.task->ascent, 0, worker_.ascent);
    }
  }

  AscentTensors tensors_of(InvertSlot& slot, const float* gradient) const {
    return {slot.x,
            gradient,
            slot.x + num_values_,
            slot.x + 2 * num_values_,
            &slot.log_probability,
            &slot.best_cost,
            &slot.stale,
            &slot.steps,
            &slot.active,
            1,
            input_.channels,
            input_.height,
            input_.width};
  }

  void finish_round(InvertSlot& slot) const {
    if (!slot.final_look) return settle(slot);
    const InvertTask& task = *worker_.task;
    std::memcpy(task.x + slot.sample * num_values_, slot.x, sizeof(float) * num_values_);
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
