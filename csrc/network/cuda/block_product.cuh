// Matrix products with gathered columns: linear layers, convolutions and their data gradients. No torch.
#pragma once

#include "network/cuda/block.cuh"
#include "network/cuda/block_flat.h"

namespace pydrift {

// ---- How a result is stored

PYDRIFT_HD float relu(float value) { return value < 0.0f ? 0.0f : value; }  // NaN stays

// Any sink but kReluPool.
__device__ __forceinline__ void put(const Block& block, const int32_t* tables, const Sink& sink, int32_t output,
                                    int32_t position, int32_t slot, float value) {
  if (sink.kind == SinkKind::kRelu) value = relu(value);
  if (sink.kind == SinkKind::kReluBack) {
    const int32_t aux = tables[sink.aux_rows + output] + tables[sink.aux_columns + position] + slot;
    if (block.at(sink.aux)[aux] <= 0.0f) value = 0.0f;
  }
  block.at(sink.out)[tables[sink.out_rows + output] + tables[sink.out_columns + position] + slot] = value;
}

// The first largest of a window's four results in scan order, as max_pool2d has it; a NaN wins.
__device__ inline void put_window(const Block& block, const int32_t* tables, const Sink& sink, int32_t output,
                                  int32_t position, int32_t slot, const float (&values)[4]) {
  float best = values[0];
  uint8_t winner = 0;
  for (uint8_t i = 1; i < 4; ++i) {
    if (values[i] > best || values[i] != values[i]) best = values[i], winner = i;
  }
  block.at(sink.out)[tables[sink.out_rows + output] + tables[sink.out_columns + position] + slot] = relu(best);
  if (!sink.has_mask) return;
  block.bytes_at(sink.aux)[tables[sink.aux_rows + output] + tables[sink.aux_columns + position] + slot] =
      best <= 0.0f ? kDeadWindow : winner;
}

// ---- Where a product's columns come from

// Pairs of a position and a slot, in the planes of this block.
template <int kColumns, bool kMasked>
struct PlaneColumns {
  const float* in;
  const uint8_t* mask;
  int32_t base[kColumns];

  __device__ __forceinline__ PlaneColumns(const Block& block, const Pass& pass)
      : in(block.at(pass.in)), mask(block.bytes_at(pass.mask)) {}

  __device__ __forceinline__ void set(int c, const Block&, const Pass& pass, const int32_t* tables, int32_t column,
                                      int32_t num_slots) {
    const int32_t position = column / num_slots;
    base[c] = tables[pass.in_columns + position] + (column - position * num_slots);
  }

  __device__ __forceinline__ float operator()(int c, int32_t row, int32_t part) const {
    const int32_t at = base[c] + row;
    const float value = in[at];
    if constexpr (kMasked) return mask[at] == part ? value : 0.0f;
    return value;
  }
};

// The slots of all blocks of the cluster.
template <int kColumns>
struct SlotColumns {
  const float* in[kColumns];

  __device__ __forceinline__ SlotColumns(const Block&, const Pass&) {}

  __device__ __forceinline__ void set(int c, const Block& block, const Pass& pass, const int32_t*, int32_t column,
                                      int32_t num_slots) {
    const int32_t rank = column / num_slots;
    in[c] = block.at(pass.in, rank) + (column - rank * num_slots);
  }

  __device__ __forceinline__ float operator()(int c, int32_t row, int32_t /*part*/) const { return in[c][row]; }
};

// ---- The product

// What one thread works on: kOutputs rows, and kColumns columns of kWindow positions each; whether there is a mask.
template <int kOutputs_, int kColumns_, int kWindow_ = 1, bool kMasked_ = false>
struct ProductTile {
  static constexpr int kOutputs = kOutputs_, kColumns = kColumns_, kWindow = kWindow_;
  static constexpr bool kMasked = kMasked_;
  using Sums = float[kOutputs][kColumns][kWindow];
};

template <int kOutputs>
__device__ __forceinline__ void load_weights(const float* __restrict__ weights, float (&values)[kOutputs]) {
  if constexpr (kOutputs % 4 == 0) {
    PYDRIFT_UNROLL
    for (int i = 0; i < kOutputs; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(weights + i);
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    }
  } else {
    PYDRIFT_UNROLL
    for (int i = 0; i < kOutputs; ++i) values[i] = weights[i];
  }
}

// Adds products [begin, end). weights: of product `begin` and the outputs of the tile; `pitch` further on those of the
// next.
template <class Tile, class Columns>
__device__ __forceinline__ void add_products(const Pass& pass, const int32_t* __restrict__ tables,
                                             const float* __restrict__ weights, int32_t pitch, int32_t begin,
                                             int32_t end, const Columns& columns, typename Tile::Sums& sum) {
  const int32_t *in_rows = tables + pass.in_rows, *in_parts = tables + pass.in_parts;
  const int32_t step_right = Tile::kWindow == 4 ? pass.step_right : 0;
  const int32_t step_down = Tile::kWindow == 4 ? pass.step_down : 0;
  PYDRIFT_UNROLL_BY(Tile::kOutputs * Tile::kColumns * Tile::kWindow >= 64 ? 2 : 4)
  for (int32_t k = begin; k < end; ++k, weights += pitch) {
    float weight[Tile::kOutputs];
    load_weights(weights, weight);
    const int32_t row = in_rows[k], part = Tile::kMasked ? in_parts[k] : 0;
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      PYDRIFT_UNROLL
      for (int p = 0; p < Tile::kWindow; ++p) {
        const float value = columns(c, row + (p % 2) * step_right + (p / 2) * step_down, part);
        PYDRIFT_UNROLL
        for (int o = 0; o < Tile::kOutputs; ++o) sum[o][c][p] = fmaf(weight[o], value, sum[o][c][p]);
      }
    }
  }
}

// The tasks of many positions: this warp's first, if `first_warp` gets the first one of all.
__device__ inline int32_t first_task(const Block& block, int32_t first_warp) {
  return (block.warp() + block.num_warps() - first_warp) % block.num_warps();
}

// Many positions: the lanes of a warp are neighbouring columns. Returns the warp after the one with the last task.
template <class Tile>
__device__ PYDRIFT_NOINLINE int32_t multiply(const Block& block, const Pass& pass, const int32_t* __restrict__ tables,
                                             const float* __restrict__ packed, int32_t num_slots, int32_t first_warp) {
  const int32_t num_columns = pass.num_positions * num_slots;
  const int32_t num_column_tiles = (num_columns - 1) / (kWarpSize * Tile::kColumns) + 1;
  const int32_t num_output_tiles = (pass.num_outputs - 1) / Tile::kOutputs + 1;
  const int32_t num_tasks = num_column_tiles * num_output_tiles;
  for (int32_t task = first_task(block, first_warp); task < num_tasks; task += block.num_warps()) {
    const int32_t column_tile = task % num_column_tiles, first_output = task / num_column_tiles * Tile::kOutputs;
    const auto column_of = [&](int c) { return (column_tile * Tile::kColumns + c) * kWarpSize + block.lane(); };
    PlaneColumns<Tile::kColumns, Tile::kMasked> columns(block, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      columns.set(c, block, pass, tables, min(column_of(c), num_columns - 1), num_slots);
    }
    typename Tile::Sums sum = {};
    const float* weights = packed + pass.weights + first_output;
    add_products<Tile>(pass, tables, weights, pass.padded_outputs, 0, pass.depth, columns, sum);

    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      const int32_t column = column_of(c), position = column / num_slots, slot = column - position * num_slots;
      if (column >= num_columns) continue;
      PYDRIFT_UNROLL
      for (int o = 0; o < Tile::kOutputs; ++o) {
        const int32_t output = first_output + o;
        if (output >= pass.num_outputs) continue;
        const float bias = pass.bias >= 0 ? packed[pass.bias + output] : 0.0f;
        PYDRIFT_UNROLL
        for (int p = 0; p < Tile::kWindow; ++p) sum[o][c][p] += bias;
        if constexpr (Tile::kWindow == 4) {
          put_window(block, tables, pass.sink, output, position, slot, sum[o][c]);
        } else {
          put(block, tables, pass.sink, output, position, slot, sum[o][c][0]);
        }
      }
    }
  }
  return (first_warp + num_tasks) % block.num_warps();
}

// ---- Linear layers

__device__ inline const float* weights_of_piece(const Block& block, const Pass& pass, const FlatTasks& tasks,
                                                const float* packed, int32_t piece) {
  if (!pass.resident.shared) return packed + pass.weights + piece * pass.words_per_piece();
  return block.at(pass.resident) + (piece - tasks.first_piece()) * pass.words_per_piece();
}

// Copies the weights that this block reads at each step to shared memory.
__device__ inline void keep_weights(const Block& block, const Pass& pass, const float* packed, int32_t num_slots) {
  if (!pass.resident.shared) return;
  const FlatTasks tasks(pass, block.rank, block.num_ranks, num_slots);
  const int64_t size = tasks.num_pieces() * pass.words_per_piece();
  const float* from = packed + pass.weights + tasks.first_piece() * pass.words_per_piece();
  for (int64_t i = block.thread; i < size; i += block.num_threads) block.at(pass.resident)[i] = from[i];
}

// Where the pieces of a column's sums go: to the block whose slot it is.
__device__ inline float* partial_sums(const Block& block, const Pass& pass, int32_t split, int32_t column,
                                      int32_t num_slots) {
  const int32_t rank = column / num_slots;
  return block.at(pass.partial, rank) + (column - rank * num_slots) + split * pass.padded_outputs * num_slots;
}

// One position, so that the columns are the slots of all blocks of the cluster: the sums are cut, and the blocks divide
// the pieces. The lanes of a warp are 8 columns by 4 output tiles.
template <class Tile>
__device__ PYDRIFT_NOINLINE void multiply_flat(const Block& block, const Pass& pass, const int32_t* __restrict__ tables,
                                               const float* __restrict__ packed, int32_t num_slots) {
  constexpr int kColumnLanes = 8, kOutputLanes = kWarpSize / kColumnLanes;
  const int32_t num_columns = block.num_ranks * num_slots;
  const int32_t column_lane = block.lane() % kColumnLanes, output_lane = block.lane() / kColumnLanes;
  static_assert(kOutputLanes * Tile::kOutputs == kFlatRows);
  const FlatTasks tasks(pass, block.rank, block.num_ranks, num_slots);
  for (int32_t task = tasks.begin + block.warp(); task < tasks.end; task += block.num_warps()) {
    const int32_t piece = tasks.piece(task), split = tasks.split(piece), column_tile = tasks.column_tile(task);
    const int32_t output_of_piece = output_lane * Tile::kOutputs;
    const int32_t first_output = tasks.output_tile(piece) * kFlatRows + output_of_piece;
    const auto column_of = [&](int c) { return (column_tile * Tile::kColumns + c) * kColumnLanes + column_lane; };
    SlotColumns<Tile::kColumns> columns(block, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      columns.set(c, block, pass, tables, min(column_of(c), num_columns - 1), num_slots);
    }
    const float* weights = weights_of_piece(block, pass, tasks, packed, piece) + output_of_piece;
    const int32_t begin = split * pass.split_depth, end = min(begin + pass.split_depth, pass.depth);
    typename Tile::Sums sum = {};
    add_products<Tile>(pass, tables, weights, kFlatRows, begin, end, columns, sum);

    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      if (column_of(c) >= num_columns || first_output >= pass.num_outputs) continue;
      float* partial = partial_sums(block, pass, split, column_of(c), num_slots) + first_output * num_slots;
      PYDRIFT_UNROLL
      for (int o = 0; o < Tile::kOutputs; ++o) partial[o * num_slots] = sum[o][c][0];
    }
  }
}

// The pieces of the sums of this block's slots, always added up in the same order.
__device__ inline void add_partial_sums(const Block& block, const Pass& pass, const int32_t* tables,
                                        const float* packed, int32_t num_slots) {
  const float* partial = block.at(pass.partial);
  const int32_t num_splits = pass.num_splits();
  for (int32_t i = block.thread; i < pass.num_outputs * num_slots; i += block.num_threads) {
    const int32_t output = i / num_slots;
    float sum = 0.0f;
    for (int32_t split = 0; split < num_splits; ++split) sum += partial[split * pass.padded_outputs * num_slots + i];
    if (pass.bias >= 0) sum += packed[pass.bias + output];
    put(block, tables, pass.sink, output, 0, i - output * num_slots, sum);
  }
}

}  // namespace pydrift
