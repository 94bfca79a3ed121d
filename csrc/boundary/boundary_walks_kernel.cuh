// Walks to the decision boundary on the GPU. No torch; also compiled and executed on the host by the tests.
//
// A block takes walks from the queue of one model. All its slots work in step: forward pass, evaluation of the logits,
// for min_gd the gradient of the pixels, one step. A walk that stops is written out, and the next one takes its slot.
// Outside of the passes a slot belongs to one warp, so no result depends on the slots or the threads.
#pragma once

#include <cmath>
#include <cstring>

#include "boundary/boundary_walks_plan.h"
#include "network/cuda/block_passes.cuh"
#include "network/cuda/block_queue.cuh"
#include "network/cuda/block_warp.cuh"

namespace pydrift {

__device__ inline WalkSlot& walk_slot(const Block& block, const WalkArguments& arguments, int32_t s) {
  return reinterpret_cast<WalkSlot*>(block.at(arguments.slots))[s];
}

__device__ inline int32_t num_image_values(const WalkArguments& arguments) {
  return arguments.input.channels * arguments.input.height * arguments.input.width;
}

// Where value i of an image is in a plane, for slot 0.
__device__ inline int32_t place_of(const Plane& plane, int32_t i) {
  const int32_t row = i / plane.width, channel = row / plane.height;
  return plane.lead + channel * plane.channel_pitch + (row - channel * plane.height) * plane.row_pitch +
         (i - row * plane.width) * plane.column_pitch;
}

__device__ inline float clamped(float value, float lower, float upper) {
  return value < lower ? lower : (value > upper ? upper : value);
}

// ---- Where a walk is

// The image of a walk. min_gd keeps it; blind_walk computes it from the number of steps.
struct WalkImage {
  const float *start, *direction;
  float *now, *gradient;  // of min_gd
  float steps, lower, upper;

  __device__ WalkImage(const Block& block, const WalkArguments& arguments, int32_t s, const WalkSlot& slot)
      : steps(static_cast<float>(slot.steps)), lower(arguments.task.lower), upper(arguments.task.upper) {
    const BoundaryTask& task = arguments.task;
    const int64_t num_values = num_image_values(arguments);
    start = task.x + task.image[slot.walk] * num_values;
    direction = task.is_blind() ? task.directions + task.direction[slot.walk] * num_values : nullptr;
    now = block.at(arguments.image) + s * num_values, gradient = block.at(arguments.gradient) + s * num_values;
  }

  __device__ float operator[](int32_t i) const {
    return direction == nullptr ? now[i] : clamped(start[i] + steps * direction[i], lower, upper);
  }
};

// ---- Evaluation of the logits

// Whether the walk has ended, and the gradient of (the label's logit - the largest logit) in the logits.
__device__ inline void read_logits(const Block& block, const WalkArguments& arguments, int32_t s) {
  WalkSlot& slot = walk_slot(block, arguments, s);
  if (slot.walk < 0) return;
  const BoundaryTask& task = arguments.task;
  const BlockNetwork& network = arguments.network;
  const float* logits = block.at(arguments.logits) + s;
  const int32_t* rows = network.tables + network.logit_rows;
  Leader leader;
  float poison = 0.0f;  // NaN where any logit is not finite
  for (int32_t k = block.lane(); k < network.num_classes; k += kWarpSize) {
    const float logit = logits[rows[k]];
    leader.offer(logit, k);
    poison += logit * 0.0f;
  }
  leader.join_lanes();
  poison = add_lanes(poison);
  const int32_t label = slot.label;
  __syncwarp();  // the gradient may take the memory of the logits
  if (!task.is_blind()) {
    for (int32_t k = block.lane(); k < network.num_classes; k += kWarpSize) {
      const int32_t gradient = (k == label ? 1 : 0) - (k == leader.label ? 1 : 0);
      put(block, network.tables, arguments.seed_sink, k, 0, s, static_cast<float>(gradient));
    }
  }
  if (block.lane() != 0) return;
  slot.failed = poison != 0.0f;
  slot.prediction = slot.failed ? -1 : leader.label;
  const bool has_crossed = task.is_blind() ? slot.prediction != label : slot.prediction == label;
  slot.ended = slot.failed || has_crossed || slot.steps >= task.max_steps;
}

// ---- A step of min_gd

__device__ inline float sign(float value) { return value > 0.0f ? 1.0f : (value < 0.0f ? -1.0f : 0.0f); }

__device__ inline float float_of_bits(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// |gradient| where an l1 step can move by the gap, else 0.
__device__ inline float movable(const BoundaryTask& task, float x, float gradient) {
  const bool can = gradient > 0.0f ? x <= task.upper - task.gap : x >= task.lower + task.gap;
  return can ? fabsf(gradient) : 0.0f;
}

// The `coordinates`-th largest movable magnitude, or the least positive number where fewer can move. Found bit by bit:
// positive floats are ordered as their bits are.
__device__ inline float nth_largest(const Block& block, const BoundaryTask& task, const WalkImage& image,
                                    int32_t num_values) {
  int32_t found = 0;
  for (int32_t bit = 30; bit >= 0; --bit) {
    const int32_t tried = found | 1 << bit;
    const float least = float_of_bits(tried);  // bits above those of infinity are a NaN, which no magnitude reaches
    int32_t num_above = 0;
    for (int32_t i = block.lane(); i < num_values; i += kWarpSize) {
      num_above += movable(task, image.now[i], image.gradient[i]) >= least ? 1 : 0;
    }
    num_above = add_lanes(num_above);
    if (num_above >= task.coordinates) found = tried;
    if (num_above == task.coordinates) break;  // lower bits would not change which ones are above
  }
  return float_of_bits(found == 0 ? 1 : found);
}

// A walk that no longer moves ends.
__device__ inline void take_step(const Block& block, const WalkArguments& arguments, int32_t s, WalkSlot& slot) {
  const BoundaryTask& task = arguments.task;
  const WalkImage image(block, arguments, s, slot);
  const float* gradients = block.at(arguments.input_gradient.place) + s;
  const int32_t num_values = num_image_values(arguments);
  float largest = 0.0f, poison = 0.0f;
  for (int32_t i = block.lane(); i < num_values; i += kWarpSize) {
    const float gradient = gradients[place_of(arguments.input_gradient, i)];
    poison += gradient * 0.0f;
    largest = fabsf(gradient) > largest ? fabsf(gradient) : largest;
    image.gradient[i] = gradient;
  }
  slot.failed = add_lanes(poison) != 0.0f;
  slot.ended = slot.failed;
  if (slot.failed) return;

  float divisor = 1.0f, per_share = 0.0f, least = 0.0f;
  if (slot.norm == Norm::kL2) {
    largest = largest_of_lanes(largest);
    if (largest > 0.0f) divisor = largest;
    float sum = 0.0f;  // of squares, of values that neither overflow nor vanish
    for (int32_t i = block.lane(); i < num_values; i += kWarpSize) {
      const float share = image.gradient[i] / divisor;
      sum += share * share;
    }
    const float length = sqrtf(add_lanes(sum));
    if (length > 0.0f) per_share = task.step[static_cast<int32_t>(Norm::kL2)] / length;
  } else if (slot.norm == Norm::kL1) {
    least = nth_largest(block, task, image, num_values);
  }
  const float step = task.step[static_cast<int32_t>(slot.norm)];
  int32_t num_moved = 0;
  for (int32_t i = block.lane(); i < num_values; i += kWarpSize) {
    const float x = image.now[i], gradient = image.gradient[i];
    float change = sign(gradient) * step;
    if (slot.norm == Norm::kL2) change = gradient / divisor * per_share;
    if (slot.norm == Norm::kL1 && movable(task, x, gradient) < least) change = 0.0f;
    const float moved = clamped(x + change, task.lower, task.upper);
    num_moved += moved != x ? 1 : 0;
    image.now[i] = moved;
  }
  slot.ended = add_lanes(num_moved) == 0;
}

// ---- The end of a walk, and the next one

__device__ inline void write_walk(const Block& block, const WalkArguments& arguments, int32_t s, const WalkSlot& slot) {
  const BoundaryTask& task = arguments.task;
  const WalkImage image(block, arguments, s, slot);
  float largest = 0.0f;
  double sum = 0.0;
  for (int32_t i = block.lane(); i < num_image_values(arguments); i += kWarpSize) {
    const double change = fabs(static_cast<double>(image[i]) - image.start[i]);
    const float rounded = static_cast<float>(change);
    if (rounded > largest) largest = rounded;
    sum += slot.norm == Norm::kL2 ? change * change : change;
  }
  largest = largest_of_lanes(largest);
  sum = add_lanes(sum);
  if (block.lane() != 0) return;
  const float distance =
      slot.norm == Norm::kLinf ? largest : static_cast<float>(slot.norm == Norm::kL2 ? sqrt(sum) : sum);
  task.distance[slot.walk] = slot.failed ? NAN : distance;
  task.steps[slot.walk] = slot.steps;
  task.prediction[slot.walk] = slot.prediction;
}

// The next walk of the model, or none.
__device__ inline void refill(const Block& block, const WalkArguments& arguments, int32_t model, int32_t s,
                              WalkSlot& slot) {
  const BoundaryTask& task = arguments.task;
  const int32_t walk = add_lanes(block.lane() == 0 ? take_item(arguments.queues, model) : 0);
  slot = WalkSlot{};
  slot.walk = walk;
  if (walk < 0) return;
  slot.label = task.label[walk], slot.norm = static_cast<Norm>(task.norm[walk]);
  if (task.is_blind()) return;
  const WalkImage image(block, arguments, s, slot);
  for (int32_t i = block.lane(); i < num_image_values(arguments); i += kWarpSize) image.now[i] = image.start[i];
}

// The image for the next forward pass.
__device__ inline void put_image(const Block& block, const WalkArguments& arguments, int32_t s, const WalkSlot& slot) {
  const WalkImage image(block, arguments, s, slot);
  float* input = block.at(arguments.input.place) + s;
  for (int32_t i = block.lane(); i < num_image_values(arguments); i += kWarpSize) {
    input[place_of(arguments.input, i)] = image[i];
  }
}

// ---- The loop

// Puts a walk, or none, into the slot from evaluation `step` on.
__device__ inline void occupy(const Block& block, const WalkArguments& arguments, int32_t s, const WalkSlot& slot,
                              int32_t step) {
  __syncwarp();  // all have read what was there
  if (block.lane() == 0) walk_slot(block, arguments, s) = slot;
  if (slot.walk < 0) return;
  put_image(block, arguments, s, slot);
  if (block.lane() == 0) signal_cluster(block, arguments.busy, step, 1);
}

__device__ inline void begin(const Block& block, const WalkArguments& arguments, int32_t model, int32_t s) {
  WalkSlot slot;
  refill(block, arguments, model, s, slot);
  occupy(block, arguments, s, slot, 0);
}

__device__ inline void advance(const Block& block, const WalkArguments& arguments, int32_t model, int32_t s,
                               int32_t step) {
  WalkSlot slot = walk_slot(block, arguments, s);  // the same in all lanes
  if (slot.walk < 0) return;
  if (!slot.ended && !arguments.task.is_blind()) take_step(block, arguments, s, slot);
  if (slot.ended) {
    write_walk(block, arguments, s, slot);
    refill(block, arguments, model, s, slot);
  } else {
    ++slot.steps;
  }
  occupy(block, arguments, s, slot, step);
}

__global__ void __launch_bounds__(kMaxBlockThreads) walk_kernel(const WalkArguments arguments) {
  const Block block = begin_block(arguments.workspace, arguments.workspace_size, arguments.shared_size);
  const int32_t model = arguments.queues.cluster_model[blockIdx.x / block.num_ranks];
  const BlockNetwork& network = arguments.network;
  const float* packed = network.packed + model * network.packed_size;
  const auto for_my_slots = [&](auto work) {
    for (int32_t s = block.warp(); s < network.num_slots; s += block.num_warps()) work(s);
  };
  keep_weights(block, network, packed);
  for_my_slots([&](int32_t s) { begin(block, arguments, model, s); });
  block.sync_cluster();
  for (int32_t step = 0;; ++step) {
    int32_t& busy = cluster_word(block, arguments.busy, block.rank, step);
    if (busy == 0) break;
    run_passes(block, network, packed, 0, network.num_forward);
    for_my_slots([&](int32_t s) { read_logits(block, arguments, s); });
    block.sync();
    if (block.thread == 0) busy = 0;
    run_passes(block, network, packed, network.num_forward, network.num_forward + network.num_back);
    for_my_slots([&](int32_t s) { advance(block, arguments, model, s, step + 1); });
    block.sync_cluster();
  }
}

__global__ void walk_pack_kernel(const BlockNetwork network) { pack_all(network); }

}  // namespace pydrift
