// The products of block_product.cuh on tensor cores. No torch.
#pragma once

#include "network/cuda/block_product.cuh"

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

// In one word, the first in its low half.
__device__ __forceinline__ uint32_t to_bfloat16_pair(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// sum [16, 8] += a [16, 16] b [16, 8] with factors in bfloat16: sum as above, and where above a lane has element k of a
// row or column, it has the pair 2 k, 2 k + 1.
__device__ __forceinline__ void multiply_fragments(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// The factors that a lane holds in one step: weights as they are packed, values as they are read (every fourth). The
// order of the products within a step does not matter, as long as it is the same for both.
template <Arithmetic kArithmetic>
struct Factors {  // in TF32, or as the sum of two
  static constexpr bool kSplit = kArithmetic == Arithmetic::kTf32Split;

  template <int kSize>
  struct Words {
    float high[kSize], low[kSize];

    __device__ __forceinline__ void set(const float (&values)[kSize]) {
      PYDRIFT_UNROLL
      for (int i = 0; i < kSize; ++i) {
        high[i] = to_tf32(values[i]);
        if constexpr (kSplit) low[i] = to_tf32(values[i] - high[i]);
      }
    }
  };
  using Weights = Words<4>;
  using Values = Words<2>;

  // The small products first, and never low times low.
  static __device__ __forceinline__ void multiply_add(float (&sum)[4], const Weights& a, const Values& b) {
    if constexpr (kSplit) {
      multiply_fragments(sum, a.low, b.high);
      multiply_fragments(sum, a.high, b.low);
    }
    multiply_fragments(sum, a.high, b.high);
  }
};

template <>
struct Factors<Arithmetic::kBfloat16> {
  struct Weights {
    uint32_t words[4];

    __device__ __forceinline__ void set(const float (&packed)[4]) {
      PYDRIFT_UNROLL
      for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(packed[i]);
    }
  };
  struct Values {
    uint32_t words[2];

    __device__ __forceinline__ void set(const float (&values)[4]) {
      words[0] = to_bfloat16_pair(values[0], values[1]), words[1] = to_bfloat16_pair(values[2], values[3]);
    }
  };

  static __device__ __forceinline__ void multiply_add(float (&sum)[4], const Weights& a, const Values& b) {
    multiply_fragments(sum, a.words, b.words);
  }
};

// ---- The products

// What one warp works on: kRowTiles times 16 outputs, and kColumnTiles times 8 columns of kWindow positions each.
template <Arithmetic kArithmetic_, int kRowTiles_, int kColumnTiles_, int kWindow_, bool kMasked_>
struct FragmentTile {
  static constexpr Arithmetic kArithmetic = kArithmetic_;
  static constexpr int kRowTiles = kRowTiles_, kColumnTiles = kColumnTiles_, kWindow = kWindow_;
  static constexpr bool kMasked = kMasked_;
  using Sums = float[kRowTiles][kColumnTiles][kWindow][4];
};

// Adds the steps [begin, end). weights: the fragments of the first tile of outputs, step `begin`, and `pitch` words
// further on those of the next tile.
template <class Tile, class Columns>
__device__ __forceinline__ void add_steps(const Pass& pass, const int32_t* __restrict__ tables,
                                          const float* __restrict__ weights_of_tiles, int64_t pitch, int32_t lane,
                                          int32_t begin, int32_t end, const Columns& columns,
                                          typename Tile::Sums& sum) {
  const int32_t step_right = Tile::kWindow == 4 ? pass.step_right : 0;
  const int32_t step_down = Tile::kWindow == 4 ? pass.step_down : 0;
  const float* fragments[Tile::kRowTiles];
  PYDRIFT_UNROLL
  for (int r = 0; r < Tile::kRowTiles; ++r) fragments[r] = weights_of_tiles + r * pitch + lane * 4;
  const int32_t *in_rows = tables + pass.in_rows + lane % 4, *in_parts = tables + pass.in_parts + lane % 4;
  using OfStep = Factors<Tile::kArithmetic>;
  constexpr int kDepth = fragment_depth(Tile::kArithmetic), kRows = kDepth / 4;
  for (int32_t k = begin * kDepth; k < end * kDepth; k += kDepth) {
    typename OfStep::Weights weights[Tile::kRowTiles];
    PYDRIFT_UNROLL
    for (int r = 0; r < Tile::kRowTiles; ++r) {
      float values[4];
      load_weights(fragments[r], values);
      fragments[r] += kWarpSize * 4;
      weights[r].set(values);
    }
    int32_t row[kRows], part[kRows] = {};
    PYDRIFT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      row[i] = in_rows[k + 4 * i];
      if constexpr (Tile::kMasked) part[i] = in_parts[k + 4 * i];
    }
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      PYDRIFT_UNROLL
      for (int p = 0; p < Tile::kWindow; ++p) {
        const int32_t shift = (p % 2) * step_right + (p / 2) * step_down;
        float read[kRows];
        PYDRIFT_UNROLL
        for (int i = 0; i < kRows; ++i) read[i] = columns(c, row[i] + shift, part[i]);
        typename OfStep::Values values;
        values.set(read);
        PYDRIFT_UNROLL
        for (int r = 0; r < Tile::kRowTiles; ++r) OfStep::multiply_add(sum[r][c][p], weights[r], values);
      }
    }
  }
}

// As multiply() of block_product.cuh.
template <class Tile>
__device__ PYDRIFT_NOINLINE int32_t multiply_tensor(const Block& block, const Pass& pass,
                                                    const int32_t* __restrict__ tables,
                                                    const float* __restrict__ packed, int32_t num_slots,
                                                    int32_t first_warp) {
  const int32_t num_columns = pass.num_positions * num_slots, lane = block.lane();
  const int32_t num_column_tiles = (num_columns - 1) / (kFragmentColumns * Tile::kColumnTiles) + 1;
  const int32_t num_output_tiles = (pass.num_outputs - 1) / (kFragmentRows * Tile::kRowTiles) + 1;
  const int32_t num_tasks = num_column_tiles * num_output_tiles;
  for (int32_t task = first_task(block, first_warp); task < num_tasks; task += block.num_warps()) {
    const int32_t first_column = task % num_column_tiles * Tile::kColumnTiles * kFragmentColumns;
    const int32_t row_tile = task / num_column_tiles * Tile::kRowTiles;
    const int64_t words_per_tile = int64_t{pass.num_steps()} * kFragmentRows * kFragmentWords;
    const float* weights = packed + pass.weights + row_tile * words_per_tile;
    const bool has_next = (row_tile + 1) * kFragmentRows < pass.padded_outputs;  // else the tile is computed twice
    PlaneColumns<Tile::kColumnTiles, Tile::kMasked> columns(block, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      const int32_t column = first_column + c * kFragmentColumns + lane / 4;
      columns.set(c, block, pass, tables, min(column, num_columns - 1), num_slots);
    }
    typename Tile::Sums sum = {};
    add_steps<Tile>(pass, tables, weights, has_next ? words_per_tile : 0, lane, 0, pass.num_steps(), columns, sum);

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
            put_window(block, tables, pass.sink, output, position, slot, values);
          } else {
            put(block, tables, pass.sink, output, position, slot, values[0]);
          }
        }
      }
    }
  }
  return (first_warp + num_tasks) % block.num_warps();
}

// As multiply_flat() of block_product.cuh.
template <class Tile>
__device__ PYDRIFT_NOINLINE void multiply_flat_tensor(const Block& block, const Pass& pass,
                                                      const int32_t* __restrict__ tables,
                                                      const float* __restrict__ packed, int32_t num_slots) {
  constexpr int kTileColumns = Tile::kColumnTiles * kFragmentColumns;
  const int32_t num_columns = block.num_ranks * num_slots, lane = block.lane();
  const int32_t split_steps = pass.split_depth / fragment_depth(Tile::kArithmetic);
  static_assert(Tile::kRowTiles * kFragmentRows == kFlatRows);
  const FlatTasks tasks(pass, block.rank, block.num_ranks, num_slots);
  for (int32_t task = tasks.begin + block.warp(); task < tasks.end; task += block.num_warps()) {
    const int32_t piece = tasks.piece(task), split = tasks.split(piece);
    const int32_t first_column = tasks.column_tile(task) * kTileColumns;
    SlotColumns<Tile::kColumnTiles> columns(block, pass);
    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      const int32_t column = first_column + c * kFragmentColumns + lane / 4;
      columns.set(c, block, pass, tables, min(column, num_columns - 1), num_slots);
    }
    typename Tile::Sums sum = {};
    const float* weights = weights_of_piece(block, pass, tasks, packed, piece);
    add_steps<Tile>(pass, tables, weights, pass.words_per_piece() / Tile::kRowTiles, lane, split * split_steps,
                    min((split + 1) * split_steps, pass.num_steps()), columns, sum);

    PYDRIFT_UNROLL
    for (int c = 0; c < Tile::kColumnTiles; ++c) {
      PYDRIFT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t column = first_column + c * kFragmentColumns + lane % 4 * 2 + i % 2;
        if (column >= num_columns) continue;
        float* partial = partial_sums(block, pass, split, column, num_slots);
        PYDRIFT_UNROLL
        for (int r = 0; r < Tile::kRowTiles; ++r) {
          const int32_t output = tasks.output_tile(piece) * kFlatRows + r * kFragmentRows + lane / 4 + i / 2 * 8;
          if (output < pass.padded_outputs) partial[output * num_slots] = sum[r][c][0][i];
        }
      }
    }
  }
}

// ---- The choice

template <Arithmetic kArithmetic>
__device__ void multiply_flat_tensor(const Block& block, const Pass& pass, const int32_t* tables, const float* packed,
                                     int32_t num_slots) {
  if (flat_tile_columns(kArithmetic, block.num_ranks * num_slots) == 8) {
    multiply_flat_tensor<FragmentTile<kArithmetic, 2, 1, 1, false>>(block, pass, tables, packed, num_slots);
  } else {
    multiply_flat_tensor<FragmentTile<kArithmetic, 2, 5, 1, false>>(block, pass, tables, packed, num_slots);
  }
}

template <Arithmetic kArithmetic>
__device__ int32_t multiply_tensor(const Block& block, const Pass& pass, const int32_t* tables, const float* packed,
                                   int32_t num_slots, int32_t first_warp) {
  const auto with = [&](auto tile) {
    return multiply_tensor<decltype(tile)>(block, pass, tables, packed, num_slots, first_warp);
  };
  if (pass.sink.kind == SinkKind::kReluPool) return with(FragmentTile<kArithmetic, 2, 2, 4, false>{});
  if (pass.in_parts >= 0) return with(FragmentTile<kArithmetic, 2, 8, 1, true>{});
  return with(FragmentTile<kArithmetic, 2, 8, 1, false>{});
}

__device__ inline void multiply_flat_fma(const Block& block, const Pass& pass, const int32_t* tables,
                                         const float* packed, int32_t num_slots) {
  const int32_t tile_columns = flat_tile_columns(Arithmetic::kFma, block.num_ranks * num_slots);
  if (tile_columns == 8) {
    multiply_flat<ProductTile<8, 1>>(block, pass, tables, packed, num_slots);
  } else if (tile_columns == 24) {
    multiply_flat<ProductTile<8, 3>>(block, pass, tables, packed, num_slots);
  } else {
    multiply_flat<ProductTile<8, 5>>(block, pass, tables, packed, num_slots);
  }
}

// Of one position each. The barriers: all blocks have what goes in, and then each has the pieces of its sums.
__device__ inline void run_flat_product(const Block& block, const Pass& pass, const int32_t* tables,
                                        const float* packed, int32_t num_slots) {
  block.sync_cluster();
  switch (pass.arithmetic) {
    case Arithmetic::kFma:
      multiply_flat_fma(block, pass, tables, packed, num_slots);
      break;
    case Arithmetic::kTf32Split:
      multiply_flat_tensor<Arithmetic::kTf32Split>(block, pass, tables, packed, num_slots);
      break;
    case Arithmetic::kTf32:
      multiply_flat_tensor<Arithmetic::kTf32>(block, pass, tables, packed, num_slots);
      break;
    case Arithmetic::kBfloat16:
      multiply_flat_tensor<Arithmetic::kBfloat16>(block, pass, tables, packed, num_slots);
  }
  block.sync_cluster();
  add_partial_sums(block, pass, tables, packed, num_slots);
}

__device__ inline int32_t multiply_fma(const Block& block, const Pass& pass, const int32_t* tables, const float* packed,
                                       int32_t num_slots, int32_t first_warp) {
  const auto with = [&](auto tile) {
    return multiply<decltype(tile)>(block, pass, tables, packed, num_slots, first_warp);
  };
  if (pass.sink.kind == SinkKind::kReluPool) return with(ProductTile<8, 2, 4>{});
  const bool masked = pass.in_parts >= 0;
  if (pass.num_outputs == 1) return masked ? with(ProductTile<1, 8, 1, true>{}) : with(ProductTile<1, 8>{});
  if (pass.num_outputs <= 4) return masked ? with(ProductTile<4, 4, 1, true>{}) : with(ProductTile<4, 4>{});
  return masked ? with(ProductTile<8, 8, 1, true>{}) : with(ProductTile<8, 8>{});
}

// Of many positions each. `first_warp` gets the first task; returns the warp that should get the next.
__device__ inline int32_t run_product(const Block& block, const Pass& pass, const int32_t* tables, const float* packed,
                                      int32_t num_slots, int32_t first_warp) {
  switch (pass.arithmetic) {
    case Arithmetic::kTf32Split:
      return multiply_tensor<Arithmetic::kTf32Split>(block, pass, tables, packed, num_slots, first_warp);
    case Arithmetic::kTf32:
      return multiply_tensor<Arithmetic::kTf32>(block, pass, tables, packed, num_slots, first_warp);
    case Arithmetic::kBfloat16:
      return multiply_tensor<Arithmetic::kBfloat16>(block, pass, tables, packed, num_slots, first_warp);
    default:
      return multiply_fma(block, pass, tables, packed, num_slots, first_warp);
  }
}

}  // namespace pydrift
