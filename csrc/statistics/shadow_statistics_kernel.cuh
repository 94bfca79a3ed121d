// Statistics of samples under models on the GPU. No torch; also compiled and executed on the host by the tests.
//
// A block takes a tile of samples, reads their images once and runs some of the models on them, one after the other.
// Logits never leave the block. The moments need all models: the state of a sample stays in the registers of one
// thread, so the models are taken in their order.
#pragma once

#include "network/cuda/block_passes.cuh"
#include "network/cuda/block_warp.cuh"
#include "statistics/shadow_statistics_plan.h"

namespace pydrift {

// ---- A sample

struct SampleStatistics {
  float margin, loss, confidence;
  int32_t prediction;
};

// By a warp; all lanes have the result. The formulas are those of margin_lanes.h, where they are explained.
__device__ inline SampleStatistics compute_statistics(const Block& block, const ShadowArguments& arguments,
                                                      int32_t slot, int32_t label) {
  const float* logits = block.at(arguments.logits) + slot;
  const BlockNetwork& network = arguments.network;
  const int32_t* rows = network.tables + network.logit_rows;
  Leader leader;
  float largest = -INFINITY;  // of the other classes
  double poison = 0.0;        // NaN where any logit is not finite
  for (int32_t k = block.lane(); k < network.num_classes; k += kWarpSize) {
    const float logit = logits[rows[k]];
    leader.offer(logit, k);
    if (k != label && logit > largest) largest = logit;
    poison += logit * 0.0f;
  }
  leader.join_lanes();
  largest = largest_of_lanes(largest);
  poison = add_lanes(poison);
  double rest = 0.0;
  for (int32_t k = block.lane(); k < network.num_classes; k += kWarpSize) {
    if (k != label) rest += exp(static_cast<double>(logits[rows[k]]) - largest);
  }
  rest = add_lanes(rest);
  double margin = static_cast<double>(logits[rows[label]]) - largest - log(rest);
  if (network.num_classes == 1) margin = INFINITY;
  const double odds = exp(-fabs(margin)), loss = (margin < 0.0 ? -margin : 0.0) + log1p(odds);
  const double confidence = (margin < 0.0 ? odds : 1.0) / (1.0 + odds);
  return {static_cast<float>(margin + poison), static_cast<float>(loss + poison),
          static_cast<float>(confidence + poison), leader.label};
}

// ---- A tile

// The images from sample `first` on; zeros behind the last.
__device__ inline void load_images(const Block& block, const ShadowArguments& arguments, int64_t first) {
  const Plane& input = arguments.input;
  float* to = block.at(input.place) + input.lead;
  const int32_t plane = input.height * input.width, num_values = input.channels * plane;
  for (int32_t i = block.thread; i < num_values * arguments.network.num_slots; i += block.num_threads) {
    const int32_t slot = i / num_values, index = i - slot * num_values, channel = index / plane;
    const int32_t y = (index - channel * plane) / input.width, x = index % input.width;
    const int64_t sample = first + slot, from = sample * num_values + index;
    float value = 0.0f;
    if (sample < arguments.num_samples) {
      value = arguments.bytes != nullptr ? static_cast<float>(arguments.bytes[from]) / 255.0f : arguments.values[from];
    }
    to[channel * input.channel_pitch + y * input.row_pitch + x * input.column_pitch + slot] = value;
  }
}

// The statistics of the tile's samples under a model, or only their margins for the moments: a warp per slot.
__device__ inline void compute_all_statistics(const Block& block, const ShadowArguments& arguments, int32_t model,
                                              int64_t first) {
  for (int32_t s = block.warp(); s < arguments.network.num_slots; s += block.num_warps()) {
    const int64_t sample = first + s;
    if (sample >= arguments.num_samples) break;
    const SampleStatistics made = compute_statistics(block, arguments, s, arguments.label[sample]);
    if (block.lane() != 0) continue;
    if (arguments.member != nullptr) {
      block.at(arguments.margins)[s] = made.margin;
      continue;
    }
    const int64_t at = model * arguments.num_samples + sample;
    arguments.statistics.margin[at] = made.margin;
    arguments.statistics.loss[at] = made.loss;
    arguments.statistics.confidence[at] = made.confidence;
    arguments.statistics.prediction[at] = made.prediction;
  }
}

// Welford's recurrence.
struct Moments {
  int32_t count = 0;
  float mean = 0.0f, m2 = 0.0f;

  __device__ void add(float margin) {
    ++count;
    const float before = margin - mean;
    mean += before / static_cast<float>(count);
    m2 += before * (margin - mean);
  }

  __device__ void put(const ShadowMoments& to, int64_t at) const {
    to.count[at] = count, to.mean[at] = mean, to.m2[at] = m2;
  }
};

__device__ inline void run_tile(const Block& block, const ShadowArguments& arguments, int64_t first,
                                int32_t begin_model, int32_t end_model) {
  const BlockNetwork& network = arguments.network;
  load_images(block, arguments, first);
  block.sync();
  const int64_t sample = first + block.thread;  // whose moments this thread has
  const bool has_moments =
      arguments.member != nullptr && block.thread < network.num_slots && sample < arguments.num_samples;
  Moments out, in;
  for (int32_t model = begin_model; model < end_model; ++model) {
    run_passes(block, network, network.packed + model * network.packed_size, 0, network.num_forward);
    compute_all_statistics(block, arguments, model, first);
    block.sync();  // before the next model overwrites the logits
    if (!has_moments) continue;
    const float margin = block.at(arguments.margins)[block.thread];
    if (arguments.member[model * arguments.num_samples + sample]) {
      in.add(margin);
    } else {
      out.add(margin);
    }
  }
  if (!has_moments) return;
  out.put(arguments.moments, kOut * arguments.num_samples + sample);
  in.put(arguments.moments, kIn * arguments.num_samples + sample);
}

// At least as many threads as slots.
__global__ void __launch_bounds__(kMaxBlockThreads) shadow_statistics_kernel(const ShadowArguments arguments) {
  const Block block = begin_block(arguments.workspace, arguments.workspace_size, arguments.shared_size);
  const int32_t cluster = static_cast<int32_t>(blockIdx.x) / block.num_ranks;
  const int32_t num_clusters = static_cast<int32_t>(gridDim.x) / block.num_ranks;
  const int32_t num_models = arguments.network.num_models, num_parts = arguments.cut.num_parts;
  for (int32_t task = cluster; task < arguments.cut.num_tiles * num_parts; task += num_clusters) {
    const int64_t tile = task / num_parts, part = task % num_parts;
    const int64_t first = (tile * block.num_ranks + block.rank) * arguments.network.num_slots;
    run_tile(block, arguments, first, static_cast<int32_t>(part * num_models / num_parts),
             static_cast<int32_t>((part + 1) * num_models / num_parts));
  }
}

__global__ void shadow_pack_kernel(const BlockNetwork network) { pack_all(network); }

}  // namespace pydrift
