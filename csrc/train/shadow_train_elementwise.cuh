// What mixes no channels: affine layers, ReLU and pooling on their own, and gradients through ReLU and pooling into a
// convolution. A warp computes one element for the samples of a group. No torch; the tests execute it on the host.
#pragma once

#include "train/shadow_train_block.cuh"

namespace pydrift {

// An element of a map, and of every map of the same shape.
struct MapElement {
  int32_t number, c, y, x;

  __device__ MapElement(const Map& map, int32_t n) : number(n) {
    const int32_t plane = map.plane_size(), position = n % plane;
    c = n / plane, y = position / map.width, x = position % map.width;
  }
  __device__ int64_t in(const Map& map) const { return int64_t{c} * map.plane + map.at(y, x); }
};

struct Span {
  int32_t begin, end;
};

// The windows along one side that contain a place of their input.
__device__ __forceinline__ Span windows_around(int32_t place, int32_t kernel, int32_t stride, int32_t padding,
                                               int32_t num_windows) {
  const int32_t last = (place + padding) / stride, before = place + padding - kernel;
  const int32_t begin = before < 0 ? 0 : before / stride + 1;
  return {begin, last + 1 < num_windows ? last + 1 : num_windows};
}

// The places of the input that a window contains.
__device__ __forceinline__ Span places_in(int32_t window, int32_t kernel, int32_t stride, int32_t padding,
                                          int32_t size) {
  const int32_t begin = window * stride - padding, end = begin + kernel;
  return {begin < 0 ? 0 : begin, end < size ? end : size};
}

__device__ __forceinline__ void pool_forward(const TrainBlock& block, const Stage& stage, int32_t group,
                                             const MapElement& to) {
  const Window& w = stage.window;
  const bool max = stage.kind == StageKind::kMaxPool;
  const float share = 1.0f / static_cast<float>(w.kernel_h * w.kernel_w);
  const Span rows = places_in(to.y, w.kernel_h, w.stride_h, w.padding_h, stage.in.height);
  const Span columns = places_in(to.x, w.kernel_w, w.stride_w, w.padding_w, stage.in.width);
  const float* in = block.at(stage.in, group) + int64_t{to.c} * stage.in.plane;
  float result = 0.0f;
  int32_t code = -1;
  for (int32_t y = rows.begin; y < rows.end; ++y) {
    for (int32_t x = columns.begin; x < columns.end; ++x) {
      const float value = in[stage.in.at(y, x)];
      if (!max) {
        result += value * share;
      } else if (code < 0 || value > result) {  // the first of equal values wins, as in torch
        result = value;
        code = (y - to.y * w.stride_h + w.padding_h) * w.kernel_w + x - to.x * w.stride_w + w.padding_w;
      }
    }
  }
  block.at(stage.out, group)[to.in(stage.out)] = result;
  if (max) block.codes_at(stage.codes, group)[int64_t{to.number} * kWarpSize] = static_cast<uint8_t>(code);
}

__device__ __forceinline__ void pool_backward(const TrainBlock& block, const Stage& stage, int32_t group,
                                              const MapElement& to) {
  const Window& w = stage.window;
  const Map& from = stage.out_gradient;
  const bool max = stage.kind == StageKind::kMaxPool;
  const float share = 1.0f / static_cast<float>(w.kernel_h * w.kernel_w);
  const Span rows = windows_around(to.y, w.kernel_h, w.stride_h, w.padding_h, from.height);
  const Span columns = windows_around(to.x, w.kernel_w, w.stride_w, w.padding_w, from.width);
  const float* gradient = block.at(from, group) + int64_t{to.c} * from.plane;
  const uint8_t* codes = block.codes_at(max ? stage.codes : 0, group);
  float sum = 0.0f;
  for (int32_t y = rows.begin; y < rows.end; ++y) {
    for (int32_t x = columns.begin; x < columns.end; ++x) {
      const float value = gradient[from.at(y, x)];
      if (!max) {
        sum += value * share;
        continue;
      }
      const int32_t own = (to.y + w.padding_h - y * w.stride_h) * w.kernel_w + to.x + w.padding_w - x * w.stride_w;
      const int64_t window = (int64_t{to.c} * from.height + y) * from.width + x;
      if (codes[window * kWarpSize] == own) sum += value;
    }
  }
  block.at(stage.in_gradient, group)[to.in(stage.in_gradient)] = sum;
}

__device__ __forceinline__ void elementwise_forward(const TrainBlock& block, const Stage& stage, int32_t group,
                                                    const MapElement& to) {
  if (stage.kind == StageKind::kMaxPool || stage.kind == StageKind::kAvgPool) {
    return pool_forward(block, stage, group, to);
  }
  const float value = block.at(stage.in, group)[to.in(stage.in)];
  float& out = block.at(stage.out, group)[to.in(stage.out)];
  if (stage.kind == StageKind::kAffine) {
    const float* parameters = block.parameters();
    out = value * parameters[stage.weight_parameters + to.c] + parameters[stage.bias_parameters + to.c];
  } else {
    out = rectified(value);
    block.codes_at(stage.codes, group)[int64_t{to.number} * kWarpSize] = value > 0.0f ? 0 : kDeadCode;
  }
}

__device__ __forceinline__ void elementwise_backward(const TrainBlock& block, const Stage& stage, int32_t group,
                                                     const MapElement& to) {
  if (stage.kind == StageKind::kMaxPool || stage.kind == StageKind::kAvgPool) {
    return pool_backward(block, stage, group, to);
  }
  const float value = block.at(stage.out_gradient, group)[to.in(stage.out_gradient)];
  float& gradient = block.at(stage.in_gradient, group)[to.in(stage.in_gradient)];
  if (stage.kind == StageKind::kAffine) {
    gradient = value * block.parameters()[stage.weight_parameters + to.c];
  } else {
    gradient = block.codes_at(stage.codes, group)[int64_t{to.number} * kWarpSize] == 0 ? value : 0.0f;
  }
}

__device__ __forceinline__ void elementwise_spread(const TrainBlock& block, const Stage& stage, int32_t group,
                                                   const MapElement& from) {
  const float value = block.at(stage.out_gradient, group)[from.in(stage.out_gradient)];
  const int32_t code = stage.codes < 0 ? 0 : block.codes_at(stage.codes, group)[int64_t{from.number} * kWarpSize];
  float* to = block.at(stage.spread, group) + int64_t{from.c} * stage.spread.plane;
  if (!stage.pooled) {
    to[stage.spread.at(from.y, from.x)] = code == 0 ? value : 0.0f;
    return;
  }
  for (int32_t p = 0; p < kTileSize; ++p) {
    to[stage.spread.at(2 * from.y + p / 2, 2 * from.x + p % 2)] = code == p ? value : 0.0f;
  }
}

// A linear layer's output is above zero exactly where its ReLU let it through.
__device__ __forceinline__ void elementwise_mask(const TrainBlock& block, const Stage& stage, int32_t group,
                                                 const MapElement& at) {
  const float out = block.at(stage.out, group)[at.in(stage.out)];
  float& gradient = block.at(stage.out_gradient, group)[at.in(stage.out_gradient)];
  gradient = out > 0.0f ? gradient : 0.0f;
}

// elements: the map whose elements are those of a group.
__global__ void __launch_bounds__(kTrainThreads)
    elementwise_kernel(TrainArguments arguments, Stage stage, ElementwisePass pass, Map elements,
                       int32_t blocks_per_model) {
  const TrainBlock block(arguments, blocks_per_model);
  const int32_t num_elements = elements.channels * elements.plane_size();
  for (int32_t i = 0; i < kElementsPerWarp; ++i) {
    const int32_t unit = (block.number * kElementsPerWarp + i) * kTrainWarps + block.warp, group = unit / num_elements;
    if (group >= block.num_groups()) return;
    const MapElement element(elements, unit % num_elements);
    switch (pass) {
      case ElementwisePass::kForward:
        elementwise_forward(block, stage, group, element);
        break;
      case ElementwisePass::kBackward:
        elementwise_backward(block, stage, group, element);
        break;
      case ElementwisePass::kSpread:
        elementwise_spread(block, stage, group, element);
        break;
      case ElementwisePass::kMask:
        elementwise_mask(block, stage, group, element);
        break;
    }
  }
}

}  // namespace pydrift
