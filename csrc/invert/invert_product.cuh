// Matrix products with gathered columns: linear layers, convolutions and their data gradients. No torch.
#pragma once

#include "invert/invert_team.cuh"

namespace pydrift {

// ---- What becomes of a result

PYDRIFT_HD float relu(float value) { return value < 0.0f ? 0.0f : value; }  // NaN stays

// Any sink but kReluPool.
__device__ inline void put(const Team& team, const int32_t* tables, const Sink& sink, int32_t output, int32_t position,
                           int32_t slot, float value) {
  float* out = team.at(sink.out) + tables[sink.out_rows + output] + tables[sink.out_columns + position] + slot;
  if (sink.kind == SinkKind::kStore) {
    *out = value;
    return;
  }
  if (sink.kind == SinkKind::kRelu) {
    *out = relu(value);
    return;
  }
  const int32_t aux = tables[sink.aux_rows + output] + tables[sink.aux_columns + position] + slot;
  if (sink.kind == SinkKind::kReluBack) {
    *out = team.at(sink.aux)[aux] <= 0.0f ? 0.0f : value;
    return;
  }
  const uint8_t winner = team.bytes_at(sink.aux)[aux];
  out[0] = winner == 0 ? value : 0.0f;
  out[sink.step_right] = winner == 1 ? value : 0.0f;
  out[sink.step_down] = winner == 2 ? value : 0.0f;
  out[sink.step_down + sink.step_right] = winner == 3 ? value : 0.0f;
}

// The first largest of a window's four results in scan order, as max_pool2d has it; a NaN wins.
__device__ inline void put_window(const Team& team, const int32_t* tables, const Sink& sink, int32_t output,
                                  int32_t position, int32_t slot, const float (&values)[4]) {
  float best = values[0];
  uint8_t winner = 0;
  for (uint8_t i = 1; i < 4; ++i) {
    if (values[i] > best || values[i] != values[i]) best = values[i], winner = i;
  }
  team.at(sink.out)[tables[sink.out_rows + output] + tables[sink.out_columns + position] + slot] = relu(best);
  team.bytes_at(sink.aux)[tables[sink.aux_rows + output] + tables[sink.aux_columns + position] + slot] =
      best <= 0.0f ? kDeadWindow : winner;
}

// ---- The product

// What one thread works on: kOutputs rows, and kColumns columns of kWindow positions each.
// The lanes of a warp are kColumnLanes neighbouring columns by as many output tiles as that leaves.
template <int kOutputs_, int kColumns_, int kWindow_, int kColumnLanes_>
struct ProductTile {
  static constexpr int kOutputs = kOutputs_, kColumns = kColumns_, kWindow = kWindow_, kColumnLanes = kColumnLanes_;
  static constexpr int kOutputLanes = kWarpSize / kColumnLanes;
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

template <class Tile>
__device__ void multiply(const Team& team, const Pass& pass, const int32_t* __restrict__ tables,
                         const float* __restrict__ packed, int32_t num_slots) {
  const int32_t num_columns = pass.num_positions * num_slots, num_splits = pass.num_splits();
  const int32_t num_column_tiles = (num_columns - 1) / (Tile::kColumnLanes * Tile::kColumns) + 1;
  const int32_t num_output_tiles = (pass.num_outputs - 1) / (Tile::kOutputLanes * Tile::kOutputs) + 1;
  const int32_t column_lane = team.lane() % Tile::kColumnLanes, output_lane = team.lane() / Tile::kColumnLanes;
  const int32_t step_right = Tile::kWindow == 4 ? pass.step_right : 0, step_down = Tile::kWindow == 4 ? pass.step_down : 0;
  const float* in = team.at(pass.in);
  const int32_t* in_rows = tables + pass.in_rows;

  for (int32_t task = team.warp(); task < num_column_tiles * num_output_tiles * num_splits; task += team.num_warps()) {
    const int32_t column_tile = task % num_column_tiles, rest = task / num_column_tiles;
    const int32_t output_tile = rest % num_output_tiles, split = rest / num_output_tiles;
    const int32_t first_output = (output_tile * Tile::kOutputLanes + output_lane) * Tile::kOutputs;
    const bool has_outputs = first_output < pass.num_outputs;
    const float* weights = packed + pass.weights + (has_outputs ? first_output : 0);

    int32_t base[Tile::kColumns], position[Tile::kColumns], slot[Tile::kColumns];
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      const int32_t column = (column_tile * Tile::kColumns + c) * Tile::kColumnLanes + column_lane;
      const int32_t valid = column < num_columns ? column : num_columns - 1;
      position[c] = valid / num_slots;
      slot[c] = column < num_columns ? valid - position[c] * num_slots : -1;
      base[c] = tables[pass.in_columns + position[c]] + (valid - position[c] * num_slots);
    }
    float sum[Tile::kOutputs][Tile::kColumns][Tile::kWindow] = {};
    if (pass.bias >= 0 && num_splits == 1) {
      PYDRIFT_UNROLL
      for (int o = 0; o < Tile::kOutputs; ++o) {
        const float bias = packed[pass.bias + (has_outputs ? first_output + o : 0)];
        PYDRIFT_UNROLL
        for (int c = 0; c < Tile::kColumns; ++c) {
          PYDRIFT_UNROLL
          for (int p = 0; p < Tile::kWindow; ++p) sum[o][c][p] = bias;
        }
      }
    }

    const int32_t begin = split * pass.split_depth;
    const int32_t end = num_splits == 1 ? pass.depth : min(begin + pass.split_depth, pass.depth);
#if defined(__CUDACC__)
#pragma unroll 4
#endif
    for (int32_t k = begin; k < end; ++k) {
      float weight[Tile::kOutputs];
      load_weights(weights + int64_t{k} * pass.padded_outputs, weight);
      const float* row = in + in_rows[k];
      PYDRIFT_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c) {
        PYDRIFT_UNROLL
        for (int p = 0; p < Tile::kWindow; ++p) {
          const float value = row[base[c] + (p % 2) * step_right + (p / 2) * step_down];
          PYDRIFT_UNROLL
          for (int o = 0; o < Tile::kOutputs; ++o) sum[o][c][p] = fmaf(weight[o], value, sum[o][c][p]);
        }
      }
    }

    PYDRIFT_UNROLL
    for (int o = 0; o < Tile::kOutputs; ++o) {
      const int32_t output = first_output + o;
      PYDRIFT_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c) {
        if (output >= pass.num_outputs || slot[c] < 0) continue;
        if constexpr (Tile::kWindow == 4) {
          put_window(team, tables, pass.sink, output, position[c], slot[c], sum[o][c]);
        } else if (num_splits > 1) {
          team.at(pass.partial)[(split * pass.padded_outputs + output) * num_slots + slot[c]] = sum[o][c][0];
        } else {
          put(team, tables, pass.sink, output, position[c], slot[c], sum[o][c][0]);
        }
      }
    }
  }
}

// Second phase of a product with cut sums: always added up in the same order.
__device__ inline void add_partial_sums(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                        int32_t num_slots) {
  const float* partial = team.at(pass.partial);
  const int32_t num_splits = pass.num_splits();
  for (int32_t i = team.thread; i < pass.num_outputs * num_slots; i += team.num_threads) {
    float sum = pass.bias >= 0 ? packed[pass.bias + i / num_slots] : 0.0f;
    for (int32_t split = 0; split < num_splits; ++split) sum += partial[split * pass.padded_outputs * num_slots + i];
    put(team, tables, pass.sink, i / num_slots, 0, i % num_slots, sum);
  }
}

__device__ inline void run_product(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                   int32_t num_slots) {
  if (pass.sink.kind == SinkKind::kReluPool) {
    multiply<ProductTile<8, 2, 4, 32>>(team, pass, tables, packed, num_slots);
  } else if (pass.num_positions > 1) {
    if (pass.num_outputs <= 4) {
      multiply<ProductTile<4, 4, 1, 32>>(team, pass, tables, packed, num_slots);
    } else {
      multiply<ProductTile<8, 8, 1, 32>>(team, pass, tables, packed, num_slots);
    }
  } else if (num_slots <= 8) {
    multiply<ProductTile<8, 1, 1, 8>>(team, pass, tables, packed, num_slots);
  } else {
    multiply<ProductTile<8, 4, 1, 8>>(team, pass, tables, packed, num_slots);
  }
  if (pass.num_splits() == 1) return;
  team.sync();
  add_partial_sums(team, pass, tables, packed, num_slots);
}

}  // namespace pydrift
