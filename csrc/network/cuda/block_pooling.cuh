// Layers that are usually fused with others: a scale per channel, a ReLU, pooling of any window. No torch.
#pragma once

#include "network/cuda/block_product.cuh"

namespace pydrift {

__device__ inline void run_scale(const Block& block, const Pass& pass, const int32_t* tables, const float* packed,
                                 int32_t num_slots) {
  const float* in = block.at(pass.in);
  const int32_t num_columns = pass.num_positions * num_slots;
  for (int64_t i = block.thread; i < int64_t{pass.num_outputs} * num_columns; i += block.num_threads) {
    const int32_t output = static_cast<int32_t>(i / num_columns), column = static_cast<int32_t>(i % num_columns);
    const int32_t position = column / num_slots, slot = column % num_slots;
    float value = in[tables[pass.in_rows + output] + tables[pass.in_columns + position] + slot];
    if (pass.weights >= 0) value *= packed[pass.weights + output];
    if (pass.bias >= 0) value += packed[pass.bias + output];
    put(block, tables, pass.sink, output, position, slot, value);
  }
}

// One element of the input or output of a pooling layer.
struct PoolElement {
  int32_t channel, y, x, position, slot;

  __device__ PoolElement(int64_t i, int32_t num_positions, int32_t width, int32_t num_slots)
      : channel(static_cast<int32_t>(i / num_slots / num_positions)),
        position(static_cast<int32_t>(i / num_slots % num_positions)),
        slot(static_cast<int32_t>(i % num_slots)) {
    y = position / width, x = position % width;
  }
};

__device__ inline const float* element(const Block& block, const Plane& plane, int32_t channel, int32_t y, int32_t x,
                                       int32_t slot) {
  return block.at(plane.place) + plane.lead + channel * plane.channel_pitch + y * plane.row_pitch +
         x * plane.column_pitch + slot;
}

// Pixels outside of the image take no part, and the first of equal maxima wins, or the last NaN.
__device__ inline void run_pooling(const Block& block, const Pass& pass, const int32_t* tables, int32_t num_slots) {
  const bool max = pass.kind == PassKind::kMaxPool;
  uint8_t* winners = pass.has_winners ? block.bytes_at(pass.winners) : nullptr;
  const int64_t num_elements = int64_t{pass.num_outputs} * pass.num_positions * num_slots;
  for (int64_t i = block.thread; i < num_elements; i += block.num_threads) {
    const PoolElement to(i, pass.num_positions, pass.to.width, num_slots);
    float sum = 0.0f, best = -INFINITY;
    int32_t winner = -1;
    for (int32_t tap = 0; tap < pass.kernel_h * pass.kernel_w; ++tap) {
      const int32_t y = to.y * pass.stride_h - pass.padding_h + tap / pass.kernel_w;
      const int32_t x = to.x * pass.stride_w - pass.padding_w + tap % pass.kernel_w;
      if (y < 0 || y >= pass.from.height || x < 0 || x >= pass.from.width) continue;
      const float value = *element(block, pass.from, to.channel, y, x, to.slot);
      sum += value;
      if (winner < 0 || value > best || value != value) best = value, winner = tap;
    }
    if (winners != nullptr) winners[i] = static_cast<uint8_t>(winner);
    put(block, tables, pass.sink, to.channel, to.position, to.slot,
        max ? best : sum / static_cast<float>(pass.kernel_h * pass.kernel_w));
  }
}

// Each pixel gathers from the windows that contain it, so no two threads add to the same place.
__device__ inline void run_pooling_back(const Block& block, const Pass& pass, const int32_t* tables,
                                        int32_t num_slots) {
  const bool max = pass.kind == PassKind::kMaxPoolBack;
  const uint8_t* winners = block.bytes_at(pass.winners);
  const int64_t num_elements = int64_t{pass.num_outputs} * pass.num_positions * num_slots;
  for (int64_t i = block.thread; i < num_elements; i += block.num_threads) {
    const PoolElement from(i, pass.num_positions, pass.from.width, num_slots);
    float sum = 0.0f;
    for (int32_t tap = pass.kernel_h * pass.kernel_w - 1; tap >= 0; --tap) {  // the windows in scan order
      const int32_t y = from.y + pass.padding_h - tap / pass.kernel_w;
      const int32_t x = from.x + pass.padding_w - tap % pass.kernel_w;
      if (y < 0 || x < 0 || y % pass.stride_h != 0 || x % pass.stride_w != 0) continue;
      const int32_t to_y = y / pass.stride_h, to_x = x / pass.stride_w;
      if (to_y >= pass.to.height || to_x >= pass.to.width) continue;
      const int64_t window = (int64_t{from.channel} * pass.to.height + to_y) * pass.to.width + to_x;
      if (max && winners[window * num_slots + from.slot] != tap) continue;
      sum += *element(block, pass.to, from.channel, to_y, to_x, from.slot);
    }
    put(block, tables, pass.sink, from.channel, from.position, from.slot,
        max ? sum : sum / static_cast<float>(pass.kernel_h * pass.kernel_w));
  }
}

}  // namespace pydrift
