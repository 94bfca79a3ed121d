// The fused inversion loop on the GPU. No torch; also compiled and executed on the host by the tests.
//
// A block takes restarts from the queue of one model. All its slots work in step: forward pass, gradient of the logits,
// gradient of the pixels, ascent. A restart that stops is evaluated once more and written out; the next one takes its
// slot. Clusters do not wait for each other, and no restart's arithmetic depends on its slot or its neighbours.
#pragma once

#include "common/philox.h"
#include "invert/invert_plan.h"
#include "network/cuda/block_passes.cuh"
#include "network/cuda/block_queue.cuh"
#include "network/cuda/block_warp.cuh"

namespace pydrift {

// ---- Slots

__device__ inline Slot* slots_of(const Block& block, const InvertArguments& arguments) {
  return reinterpret_cast<Slot*>(block.at(arguments.slots));
}

__device__ inline int32_t wrapped(int32_t index, int32_t size) {
  const int32_t remainder = index % size;
  return remainder < 0 ? remainder + size : remainder;
}

// How the image is rolled at the slot's next evaluation.
__device__ inline void set_roll(const InvertArguments& arguments, Slot& slot) {
  slot.down = slot.right = 0;
  if (slot.phase != Phase::kRunning || arguments.jitter == 0) return;
  const Shift shift = jitter_shift(arguments.seed, slot.label, slot.restart, slot.steps, arguments.jitter);
  slot.down = wrapped(shift.down, arguments.input.height), slot.right = wrapped(shift.right, arguments.input.width);
}

// The next restart of the model, or none.
__device__ inline void refill(const InvertArguments& arguments, int32_t model, Slot& slot) {
  slot.sample = -1;
  slot.phase = Phase::kEmpty;
  slot.down = slot.right = 0;
  slot.is_fresh = false;
  const int32_t sample = take_item(arguments.queues, model);
  if (sample < 0) return;
  slot.sample = sample;
  slot.phase = arguments.max_steps > 0 ? Phase::kRunning : Phase::kLast;
  slot.label = arguments.label[slot.sample], slot.restart = arguments.restart[slot.sample];
  slot.steps = slot.steps_without_improvement = slot.has_bad_gradient = 0;
  slot.best_cost = INFINITY;
  slot.active = slot.is_fresh = true;
  set_roll(arguments, slot);
}

// Uses the evaluation: begins a running restart's step or ends the restart; replaces a restart that is done.
__device__ inline void decide(const InvertArguments& arguments, int32_t model, Slot& slot) {
  slot.retired = -1;
  slot.is_fresh = false;
  slot.step.taken = false;
  if (slot.phase == Phase::kLast) {
    const float log_probability = slot.log_probability;
    arguments.confidence[slot.sample] = expf(log_probability);
    arguments.loss[slot.sample] = -log_probability;
    arguments.steps[slot.sample] = slot.steps;
    slot.retired = slot.sample;
    refill(arguments, model, slot);
  } else if (slot.phase == Phase::kRunning) {
    AscentTensors tensors{};
    tensors.log_probability = &slot.log_probability;
    tensors.best_cost = &slot.best_cost;
    tensors.steps_without_improvement = &slot.steps_without_improvement;
    tensors.steps = &slot.steps;
    tensors.active = &slot.active;
    // A ReLU can hide a NaN of the logits from the gradient; the ascent stops in that case too.
    const bool is_finite = slot.has_bad_gradient == 0 && slot.log_probability == slot.log_probability;
    slot.step = begin_step(tensors, arguments.ascent, 0, is_finite);
    slot.has_bad_gradient = 0;
    if (!slot.step.taken || slot.steps == arguments.max_steps) slot.phase = Phase::kLast;
    set_roll(arguments, slot);
  }
}

// ---- Between forward and back

// log softmax at the label, and its gradient in the logits: a warp per slot.
__device__ inline void seed_gradient(const Block& block, const InvertArguments& arguments) {
  const float* logits = block.at(arguments.logits);
  const int32_t* rows = arguments.network.tables + arguments.network.logit_rows;
  for (int32_t s = block.warp(); s < arguments.network.num_slots; s += block.num_warps()) {
    Slot& slot = slots_of(block, arguments)[s];
    if (slot.phase == Phase::kEmpty) continue;
    float largest = -INFINITY;
    double poison = 0.0;  // NaN where any logit is not finite
    for (int32_t k = block.lane(); k < arguments.network.num_classes; k += kWarpSize) {
      const float logit = logits[rows[k] + s];
      if (!(logit <= largest)) largest = logit;
      poison += logit * 0.0f;
    }
    poison = add_lanes(poison);
    for (int32_t lane = kWarpSize / 2; lane > 0; lane /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, largest, lane);
      if (!(other <= largest)) largest = other;  // a NaN stays or spoils the sum
    }
    double others = 0.0;  // without the label's own term, so that a confidence near 1 keeps its digits
    for (int32_t k = block.lane(); k < arguments.network.num_classes; k += kWarpSize) {
      if (k != slot.label) others += exp(static_cast<double>(logits[rows[k] + s]) - largest);
    }
    others = add_lanes(others);
    const double logit = static_cast<double>(logits[rows[slot.label] + s]) - largest, own = exp(logit);
    __syncwarp();  // the gradient may take the memory of the logits
    for (int32_t k = block.lane(); k < arguments.network.num_classes; k += kWarpSize) {
      const double odds = k == slot.label ? others : -exp(static_cast<double>(logits[rows[k] + s]) - largest);
      put(block, arguments.network.tables, arguments.seed_sink, k, 0, s,
          static_cast<float>(odds / (own + others) + poison));
    }
    const double log_probability = logit == 0.0 ? -log1p(others) : logit - log(own + others);
    if (block.lane() == 0) slot.log_probability = static_cast<float>(log_probability + poison);
  }
}

// ---- Pixels

// One pixel of one slot's image.
struct Pixel {
  int32_t slot, channel, y, x;

  __device__ Pixel(int32_t i, const InvertArguments& arguments) {
    const int32_t index = i / arguments.network.num_slots, row = index / arguments.input.width;
    slot = i - index * arguments.network.num_slots;
    x = index - row * arguments.input.width;
    channel = row / arguments.input.height;
    y = row - channel * arguments.input.height;
  }

  // Where it is in a plane of the rolled image.
  __device__ int32_t rolled(const Plane& plane, const Slot& state) const {
    int32_t to_y = y + state.down, to_x = x + state.right;
    if (to_y >= plane.height) to_y -= plane.height;
    if (to_x >= plane.width) to_x -= plane.width;
    return plane.lead + channel * plane.channel_pitch + to_y * plane.row_pitch + to_x * plane.column_pitch + slot;
  }
};

__device__ inline int32_t num_image_values(const InvertArguments& arguments) {
  return arguments.input.channels * arguments.input.height * arguments.input.width;
}

// Updates the moments of all running restarts from the old images. A restart that stops now no longer needs its own.
template <Optimizer kOptimizer>
__device__ void update_all_moments(const Block& block, const InvertArguments& arguments) {
  Slot* slots = slots_of(block, arguments);
  const float *image = block.at(arguments.image), *gradients = block.at(arguments.input_gradient.place);
  float *first = block.at(arguments.first_moment), *second = block.at(arguments.second_moment);
  const int32_t right = arguments.network.num_slots, down = arguments.network.num_slots * arguments.input.width;
  for (int32_t i = block.thread; i < num_image_values(arguments) * arguments.network.num_slots;
       i += block.num_threads) {
    const Pixel pixel(i, arguments);
    Slot& slot = slots[pixel.slot];
    if (slot.phase != Phase::kRunning) continue;
    const float here = image[i];
    const float gradient = gradients[pixel.rolled(arguments.input_gradient, slot)];
    if (!is_finite(gradient)) slot.has_bad_gradient = 1;  // several threads may write the same value
    const float prior = prior_gradient(arguments.ascent, here, pixel.y > 0 ? image[i - down] : here,
                                       pixel.y + 1 < arguments.input.height ? image[i + down] : here,
                                       pixel.x > 0 ? image[i - right] : here,
                                       pixel.x + 1 < arguments.input.width ? image[i + right] : here);
    update_moments<kOptimizer>(arguments.ascent, gradient - prior, first[i], second[i]);
  }
}

// Moves, writes out or loads every image, and rolls it for the next evaluation.
template <Optimizer kOptimizer>
__device__ void advance_all(const Block& block, const InvertArguments& arguments) {
  const Slot* slots = slots_of(block, arguments);
  float *image = block.at(arguments.image), *input = block.at(arguments.input.place);
  float *first = block.at(arguments.first_moment), *second = block.at(arguments.second_moment);
  const int32_t num_values = num_image_values(arguments);
  for (int32_t i = block.thread; i < num_values * arguments.network.num_slots; i += block.num_threads) {
    const Pixel pixel(i, arguments);
    const Slot& slot = slots[pixel.slot];
    const int32_t index = i / arguments.network.num_slots;
    if (slot.retired >= 0) arguments.x[slot.retired * num_values + index] = image[i];
    if (slot.phase == Phase::kEmpty) continue;
    float value = image[i];
    if (slot.is_fresh) {
      value = arguments.x[slot.sample * num_values + index];
      first[i] = second[i] = 0.0f;
    } else if (slot.step.taken) {
      value =
          ascend<kOptimizer>(arguments.ascent, slot.step.step_size, slot.step.second_scale, value, first[i], second[i]);
    }
    image[i] = value;
    input[pixel.rolled(arguments.input, slot)] = value;
  }
}

// ---- The loop

// Signals the phase of the slot to all blocks of the cluster. `step` counts the steps of the cluster.
__device__ inline void publish(const Block& block, const InvertArguments& arguments, const Slot& slot, int32_t step) {
  signal_cluster(block, arguments.phases, step, 1 << static_cast<int32_t>(slot.phase));
}

__device__ inline void update_all_moments(const Block& block, const InvertArguments& arguments) {
  if (arguments.ascent.optimizer == Optimizer::kAdam) {
    update_all_moments<Optimizer::kAdam>(block, arguments);
  } else {
    update_all_moments<Optimizer::kMomentum>(block, arguments);
  }
}

__device__ inline void advance_all(const Block& block, const InvertArguments& arguments) {
  if (arguments.ascent.optimizer == Optimizer::kAdam) {
    advance_all<Optimizer::kAdam>(block, arguments);
  } else {
    advance_all<Optimizer::kMomentum>(block, arguments);
  }
}

__global__ void __launch_bounds__(kMaxBlockThreads) invert_kernel(const InvertArguments arguments) {
  const Block block = begin_block(arguments.workspace, arguments.workspace_size, arguments.shared_size);
  const int32_t model = arguments.queues.cluster_model[blockIdx.x / block.num_ranks];
  const BlockNetwork& network = arguments.network;
  const float* packed = network.packed + model * network.packed_size;
  keep_weights(block, network, packed);
  Slot* slots = slots_of(block, arguments);
  for (int32_t s = block.thread; s < arguments.network.num_slots; s += block.num_threads) {
    slots[s].retired = -1;
    refill(arguments, model, slots[s]);
    publish(block, arguments, slots[s], 0);
  }
  block.sync();
  advance_all(block, arguments);
  block.sync_cluster();
  for (int32_t step = 0;; ++step) {
    int32_t& phases = cluster_word(block, arguments.phases, block.rank, step);
    const int32_t seen = phases;
    const bool any_running = seen & 1 << static_cast<int32_t>(Phase::kRunning);
    if (!any_running && !(seen & 1 << static_cast<int32_t>(Phase::kLast))) break;
    run_passes(block, network, packed, 0, network.num_forward);
    seed_gradient(block, arguments);
    block.sync();
    if (any_running) {
      run_passes(block, network, packed, network.num_forward, network.num_forward + network.num_back);
      update_all_moments(block, arguments);
      block.sync();
    }
    for (int32_t s = block.thread; s < arguments.network.num_slots; s += block.num_threads) {
      decide(arguments, model, slots[s]);
      publish(block, arguments, slots[s], step + 1);
    }
    block.sync();
    if (block.thread == 0) phases = 0;
    advance_all(block, arguments);
    block.sync_cluster();
  }
}

__global__ void pack_kernel(const BlockNetwork network) { pack_all(network); }

}  // namespace pydrift
