// MinGD: steps of a fixed length along the gradient of (the label's logit - the largest logit), until the two are the
// same logit. No torch.
#pragma once

#include "boundary/walk_state_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

PYDRIFT_INLINE Vec square_root(Vec v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);  // the plain one makes GCC 12 warn
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_sqrt_ps(v);
#else
  for (int32_t lane = 0; lane < kLanes; ++lane) v[lane] = sqrtf(v[lane]);
  return v;
#endif
}

PYDRIFT_INLINE Vec magnitude(Vec v) { return v < Vec{} ? -v : v; }

PYDRIFT_INLINE Vec sign(Vec v) { return v > Vec{} ? all(1.0f) : (v < Vec{} ? all(-1.0f) : Vec{}); }

struct MinGd {
  static constexpr bool kNeedsGradient = true;
  static constexpr bool kHasDirection = false;

  PYDRIFT_INLINE static bool has_crossed(int32_t prediction, int32_t label) { return prediction == label; }

  struct Place {
    Place(const WalkSlot*, int32_t) {}

    PYDRIFT_INLINE Vec value(const BoundaryTask&, const WalkState& state, int64_t at) const {
      return load(state.image + at);
    }
  };

  static float value(const BoundaryTask&, const WalkSlot&, const WalkState& state, int64_t at) {
    return state.image[at];
  }

  // One step of the walks of a group that have not ended. A walk that no longer moves ends.
  static void step(const BoundaryTask& task, WalkSlot* slots, int32_t num_lanes, const float* gradients, const Map& map,
                   const Map& dense, const WalkState& state) {
    IntVec norm = {}, going = {};
    bool any_l1 = false;
    for (int32_t lane = 0; lane < num_lanes; ++lane) {
      norm[lane] = static_cast<int32_t>(slots[lane].norm);
      going[lane] = slots[lane].ended ? 0 : -1;
      any_l1 |= !slots[lane].ended && slots[lane].norm == Norm::kL1;
    }
    const IntVec is_l1 = norm == static_cast<int32_t>(Norm::kL1), is_l2 = norm == static_cast<int32_t>(Norm::kL2);

    const int64_t count = int64_t{map.channels} * map.height * map.width;
    Vec largest = {}, poison = {};
    for_each_element(map, dense, [&](int64_t from, int64_t to, int32_t, int64_t) {
      const Vec gradient = load(gradients + from);
      poison += gradient * 0.0f;
      largest = maximum(magnitude(gradient), largest);
      store(state.other + to, gradient);
    });
    Vec sum = {};  // of squares, of values that neither overflow nor vanish
    const Vec divisor = largest > Vec{} ? largest : all(1.0f);
    for (int64_t i = 0; i < count; ++i) {
      const Vec share = load(state.other + i * kLanes) / divisor;
      sum += share * share;
    }
    const Vec length = square_root(sum);
    const Vec per_share = length > Vec{} ? task.step[static_cast<int32_t>(Norm::kL2)] / length : Vec{};
    const Vec least = any_l1 ? nth_largest(task, state, count) : Vec{};

    const Vec step =
        is_l1 ? all(task.step[static_cast<int32_t>(Norm::kL1)]) : all(task.step[static_cast<int32_t>(Norm::kLinf)]);
    IntVec has_moved = {};
    for (int64_t i = 0; i < count; ++i) {
      const Vec x = load(state.image + i * kLanes), gradient = load(state.other + i * kLanes);
      const Vec change = is_l2 ? gradient / divisor * per_share
                               : (is_l1 & (movable(task, x, gradient) < least) ? Vec{} : sign(gradient) * step);
      const Vec moved = going ? clamped(x + change, task.lower, task.upper) : x;
      has_moved |= moved != x;
      store(state.image + i * kLanes, moved);
    }
    for (int32_t lane = 0; lane < num_lanes; ++lane) {
      if (!going[lane]) continue;
      slots[lane].failed = poison[lane] != 0.0f;
      slots[lane].ended = slots[lane].failed || !has_moved[lane];
    }
  }

 private:
  // |gradient| where an l1 step can move by the gap, else 0.
  PYDRIFT_INLINE static Vec movable(const BoundaryTask& task, Vec x, Vec gradient) {
    const IntVec can = gradient > Vec{} ? x <= all(task.upper - task.gap) : x >= all(task.lower + task.gap);
    return can ? magnitude(gradient) : Vec{};
  }

  // Of each lane the `coordinates`-th largest movable magnitude, or the least positive number where fewer can move.
  // Found bit by bit: positive floats are ordered as their bits are.
  static Vec nth_largest(const BoundaryTask& task, const WalkState& state, int64_t count) {
    IntVec found = {}, settled = {};
    for (int32_t bit = 30; bit >= 0; --bit) {
      const IntVec tried = found | (1 << bit);
      IntVec num_above = {};
      for (int64_t i = 0; i < count; ++i) {
        const Vec size = movable(task, load(state.image + i * kLanes), load(state.other + i * kLanes));
        IntVec bits;
        std::memcpy(&bits, &size, sizeof(bits));
        num_above -= bits >= tried;
      }
      found = ~settled & (num_above >= task.coordinates) ? tried : found;
      settled |= num_above == task.coordinates;  // lower bits would not change which ones are above
      bool all_settled = true;
      for (int32_t lane = 0; lane < kLanes; ++lane) all_settled &= settled[lane] != 0;
      if (all_settled) break;
    }
    found = found == 0 ? 1 - IntVec{} : found;
    Vec value;
    std::memcpy(&value, &found, sizeof(value));
    return value;
  }
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
