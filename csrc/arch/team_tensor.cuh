// The products of team_product.cuh on tensor cores. No torch.
#pragma once

#include "arch/team_product.cuh"

namespace pydrift {

// ---- The instructions

#if defined(__CUDACC__)
__device__ __forceinline__ float to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

// sum [16, 8] += a [16, 8] b [8, 8] with factors in TF32. Lane (g, t) = (lane / 4, lane % 4) holds
//   a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);  b: (t, g), (t + 4, g);
//   sum: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
__device__ __forceinline__ void multiply_fragments(float (&sum)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif

// A float32 as TF32, or as the sum of two.
template <bool kSplit, int kSize>
struct Tf32 {
  float high[kSize], low[kSize];

  __device__ __forceinline__ void set(int i, float value) {
    high[i] = to_tf32(value);
    if constexpr (kSplit) low[i] = to_tf32(value - high[i]);
  }
};

// The small products first, and never low times low.
template <bool kSplit>
__device__ __forceinline__ void multiply_add(float (&sum)[4], const Tf32<kSplit, 4>& a, const Tf32<kSplit, 2>& b) {
  if constexpr (kSplit) {
    multiply_fragments(sum, a.low, b.high);
    multiply_fragments(sum, a.high, b.low);
  }
  multiply_fragments(sum, a.high, b.high);
}

// ---- The products

// What one warp works on: kRowTiles times 16 outputs, and kColumnTiles times 8 columns of kWindow positions each.
template <int kRowTiles_, int kColumnTiles_, int kWindow_, bool kMasked_, bool kSplit_>
struct FragmentTile {
  static constexpr int kRowTiles = kRowTiles_, kColumnTiles = kColumnTiles_, kWindow = kWindow_;
  static constexpr bool kMasked = kMasked_, kSplit = kSplit_;
  using Sums = float[kRowTiles][kColumnTiles][kWindow][4];
};

// Adds the steps [begin, end) of the sums of the row tiles from `row_tile` on.
template <class Tile, class Columns>
__device__ __forceinline__ void add_steps(const Pass& pass, const int32_t* __restrict__ tables,
                                          const float* __restrict__ packed, int32_t lane, int32_t row_tile,
                                          int32_t begin, int32_t end, const Columns& columns,
                                          typename Tile::Sums& sum) {
  const int32_t step_right = Tile::kWindow == 4 ? pass.step_right : 0;
  const int32_t step_down = Tile::kWindow == 4 ? pass.step_down : 0;
  const int32_t last_row_tile = pass.padded_outputs / kFragmentRows - 1;
  const float* fragments[Tile::kRowTiles];
  PYDRIFT_UNROLL
  for (int r = 0; r < Tile::kRowTiles; ++r) {
    const int64_t first = int64_t{min(row_tile + r, last_row_tile)} * pass.num_steps() + begin;
    fragments[r] = packed + pass.weights + (first * kWarpSize + lane) * 4;
  }
  const int32_t *in_rows = tables + pass.in_rows + lane % 4, *in_parts = tables + pass.in_parts + lane % 4;
  for (int32_t k = begin * kFragmentDepth; k < end * kFragmentDepth; k += kFragmentDepth) {
    Tf32<Tile::kSplit, 4> weights[Tile::kRowTiles];
    PYDRIFT_UNROLL
    for (int r = 0; r < Tile::kRowTiles; ++r) {
      float values[4];
      load_weights(fragments[r], values);
      fragments[r] += kWarpSize * 4;
      PYDRIFT_UNROLL
      for (int i = 0; i < 4; ++i) weights[r].set(i, values[i]);
    }
    const int32_t row[2] = {in_rows[k], in_rows[k + 4]};
    const int32_t part[2] = {Tile::kMasked ? in_parts[k] : 0, Tile::kMasked ? in_parts[k + 4] : 0};
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      PYDRIFT_UNROLL
      for (int p = 0; p < Tile::kWindow; ++p) {
        const int32_t shift = (p % 2) * step_right + (p / 2) * step_down;
        Tf32<Tile::kSplit, 2> values;
        values.set(0, columns(c, row[0] + shift, part[0]));
        values.set(1, columns(c, row[1] + shift, part[1]));
        PYDRIFT_UNROLL
        for (int r = 0; r < Tile::kRowTiles; ++r) multiply_add(sum[r][c][p], weights[r], values);
      }
    }
  }
}

// As multiply() of team_product.cuh.
template <class Tile>
__device__ PYDRIFT_NOINLINE int32_t multiply_tensor(const Team& team, const Pass& pass,
                                                    const int32_t* __restrict__ tables,
                                                    const float* __restrict__ packed, int32_t num_slots,
                                                    int32_t first_warp) {
  const int32_t num_columns = pass.num_positions * num_slots, lane = team.lane();
  const int32_t num_column_tiles = (num_columns - 1) / (kFragmentColumns * Tile::kColumnTiles) + 1;
  const int32_t num_output_tiles = (pass.num_outputs - 1) / (kFragmentRows * Tile::kRowTiles) + 1;
  const int32_t num_tasks = num_column_tiles * num_output_tiles;
  for (int32_t task = first_task(team, first_warp); task < num_tasks; task += team.num_warps()) {
    const int32_t first_column = task % num_column_tiles * Tile::kColumnTiles * kFragmentColumns;
    const int32_t row_tile = task / num_column_tiles * Tile::kRowTiles;
    PlaneColumns<Tile::kColumnTiles, Tile::kMasked> columns(team, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      const int32_t column = first_column + c * kFragmentColumns + lane / 4;
      columns.set(c, team, pass, tables, min(column, num_columns - 1), num_slots);
    }
    typename Tile::Sums sum = {};
    add_steps<Tile>(pass, tables, packed, lane, row_tile, 0, pass.num_steps(), columns, sum);

    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      PYDRIFT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t column = first_column + c * kFragmentColumns + lane % 4 * 2 + i % 2;
        if (column >= num_columns) continue;
        const int32_t position = column / num_slots, slot = column - position * num_slots;
        PYDRIFT_UNROLL
        for (int r = 0; r < Tile::kRowTiles; ++r) {
          const int32_t output = (row_tile + r) * kFragmentRows + lane / 4 + i / 2 * 8;
          if (output >= pass.num_outputs) continue;
          const float bias = pass.bias >= 0 ? packed[pass.bias + output] : 0.0f;
          float values[Tile::kWindow];
          PYDRIFT_UNROLL
          for (int p = 0; p < Tile::kWindow; ++p) values[p] = sum[r][c][p][i] + bias;
          if constexpr (Tile::kWindow == 4) {
            put_window(team, tables, pass.sink, output, position, slot, values);
          } else {
            put(team, tables, pass.sink, output, position, slot, values[0]);
          }
        }
      }
    }
  }
  return (first_warp + num_tasks) % team.num_warps();
}

// As multiply_flat() of team_product.cuh.
template <class Tile>
__device__ PYDRIFT_NOINLINE void multiply_flat_tensor(const Team& team, const Pass& pass,
                                                      const int32_t* __restrict__ tables,
                                                      const float* __restrict__ packed, int32_t num_slots) {
  constexpr int kTileColumns = Tile::kColumnTiles * kFragmentColumns;
  const int32_t num_columns = team.num_ranks * num_slots, lane = team.lane();
  const int32_t split_steps = pass.split_depth / kFragmentDepth;
  const FlatTasks tasks(team, pass, num_slots, Tile::kRowTiles * kFragmentRows, kTileColumns);
  for (int32_t task = tasks.begin + team.warp(); task < tasks.end; task += team.num_warps()) {
    const int32_t split = tasks.split(task), first_column = tasks.column_tile(task) * kTileColumns;
    const int32_t row_tile = tasks.output_tile(task) * Tile::kRowTiles;
    SlotColumns<Tile::kColumnTiles> columns(team, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      const int32_t column = first_column + c * kFragmentColumns + lane / 4;
      columns.set(c, team, pass, tables, min(column, num_columns - 1), num_slots);
    }
    typename Tile::Sums sum = {};
    add_steps<Tile>(pass, tables, packed, lane, row_tile, split * split_steps,
                    min((split + 1) * split_steps, pass.num_steps()), columns, sum);

    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      PYDRIFT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t column = first_column + c * kFragmentColumns + lane % 4 * 2 + i % 2;
        if (column >= num_columns) continue;
        float* partial = partial_sums(team, pass, split, column, num_slots);
        PYDRIFT_UNROLL
        for (int r = 0; r < Tile::kRowTiles; ++r) {
          const int32_t output = (row_tile + r) * kFragmentRows + lane / 4 + i / 2 * 8;
          if (output < pass.padded_outputs) partial[output * num_slots] = sum[r][c][0][i];
        }
      }
    }
  }
}

// ---- The choice

template <bool kSplit>
__device__ void multiply_flat_any(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                  int32_t num_slots) {
  if (team.num_ranks * num_slots <= kFragmentColumns) {
    multiply_flat_tensor<FragmentTile<2, 1, 1, false, kSplit>>(team, pass, tables, packed, num_slots);
  } else {
    multiply_flat_tensor<FragmentTile<2, 5, 1, false, kSplit>>(team, pass, tables, packed, num_slots);
  }
}

template <bool kSplit>
__device__ int32_t multiply_any(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                int32_t num_slots, int32_t first_warp) {
  if (pass.sink.kind == SinkKind::kReluPool) {
    return multiply_tensor<FragmentTile<2, 2, 4, false, kSplit>>(team, pass, tables, packed, num_slots, first_warp);
  }
  if (pass.in_parts >= 0) {
    return multiply_tensor<FragmentTile<2, 8, 1, true, kSplit>>(team, pass, tables, packed, num_slots, first_warp);
  }
  return multiply_tensor<FragmentTile<2, 8, 1, false, kSplit>>(team, pass, tables, packed, num_slots, first_warp);
}

// Of one position each. The barriers: all teams have what goes in, and then each has the pieces of its sums.
__device__ inline void run_flat_product(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                        int32_t num_slots) {
  const int32_t num_columns = team.num_ranks * num_slots;
  team.sync_cluster();
  if (pass.arithmetic == Arithmetic::kTf32Split) {
    multiply_flat_any<true>(team, pass, tables, packed, num_slots);
  } else if (pass.arithmetic == Arithmetic::kTf32) {
    multiply_flat_any<false>(team, pass, tables, packed, num_slots);
  } else if (num_columns <= 8) {
    multiply_flat<ProductTile<8, 1>>(team, pass, tables, packed, num_slots);
  } else if (num_columns <= 24) {
    multiply_flat<ProductTile<8, 3>>(team, pass, tables, packed, num_slots);
  } else {
    multiply_flat<ProductTile<8, 5>>(team, pass, tables, packed, num_slots);
  }
  team.sync_cluster();
  add_partial_sums(team, pass, tables, packed, num_slots);
}

// Of many positions each. `first_warp` gets the first task; returns the warp that should get the next.
__device__ inline int32_t run_product(const Team& team, const Pass& pass, const int32_t* tables, const float* packed,
                                      int32_t num_slots, int32_t first_warp) {
  if (pass.arithmetic == Arithmetic::kTf32Split) {
    return multiply_any<true>(team, pass, tables, packed, num_slots, first_warp);
  }
  if (pass.arithmetic == Arithmetic::kTf32) {
    return multiply_any<false>(team, pass, tables, packed, num_slots, first_warp);
  }
  const auto with = [&](auto tile) {
    return multiply<decltype(tile)>(team, pass, tables, packed, num_slots, first_warp);
  };
  if (pass.sink.kind == SinkKind::kReluPool) return with(ProductTile<8, 2, 4>{});
  const bool masked = pass.in_parts >= 0;
  if (pass.num_outputs == 1) return masked ? with(ProductTile<1, 8, 1, true>{}) : with(ProductTile<1, 8>{});
  if (pass.num_outputs <= 4) return masked ? with(ProductTile<4, 4, 1, true>{}) : with(ProductTile<4, 4>{});
  return masked ? with(ProductTile<8, 8, 1, true>{}) : with(ProductTile<8, 8>{});
}

}  // namespace pydrift
