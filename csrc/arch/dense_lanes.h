// The dense kernel: every multiply-add of a network, forward and backward. See plan.h for the formula. No torch.
#pragma once

#include "arch/lanes.h"
#include "arch/plan.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// kNumRows outputs at kNumPositions positions. weight [num_terms][kNumRows]
template <int32_t kNumRows, int32_t kNumPositions>
PYDRIFT_INLINE void accumulate(const float* weight, const int32_t* offset, int32_t num_terms,
                               const float* const (&in)[kNumPositions], Vec (&sum)[kNumRows][kNumPositions]) {
  for (int32_t k = 0; k < num_terms; ++k, weight += kNumRows) {
    Vec value[kNumPositions];
#pragma GCC unroll 8
    for (int32_t p = 0; p < kNumPositions; ++p) value[p] = load(in[p] + offset[k]);
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) {
      const Vec factor = all(weight[r]);
#pragma GCC unroll 8
      for (int32_t p = 0; p < kNumPositions; ++p) sum[r][p] = multiply_add(factor, value[p], sum[r][p]);
    }
  }
}

// Outputs `block` at kNumPositions positions, handed to finish(output, sums of its positions).
template <int32_t kNumRows, int32_t kNumPositions, class Finish>
PYDRIFT_INLINE void run_rows(const Dense& dense, const float* weights, const int32_t* offsets, OutputBlock block,
                             const float* const (&in)[kNumPositions], Finish finish) {
  Vec sum[kNumRows][kNumPositions];
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
    const Vec bias = dense.bias < 0 ? Vec{} : all(weights[dense.bias + block.begin + r]);
#pragma GCC unroll 8
    for (int32_t p = 0; p < kNumPositions; ++p) sum[r][p] = bias;
  }
  const float* weight = weights + dense.weight + int64_t{block.begin} * dense.num_terms;
  accumulate(weight, offsets + dense.terms, dense.num_terms, in, sum);
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) finish(block.begin + r, sum[r]);
}

template <int32_t kNumPositions, class Finish>
PYDRIFT_INLINE void run_block(const Dense& dense, const float* weights, const int32_t* offsets, OutputBlock block,
                              const float* const (&in)[kNumPositions], Finish finish) {
  static_assert(kRows <= 6, "the cases below");
  switch (block.count) {
    case 1:
      return run_rows<1>(dense, weights, offsets, block, in, finish);
    case 2:
      return run_rows<2>(dense, weights, offsets, block, in, finish);
    case 3:
      return run_rows<3>(dense, weights, offsets, block, in, finish);
    default:
      if constexpr (kRows > 3) {
        if (block.count == 4) return run_rows<4>(dense, weights, offsets, block, in, finish);
        if (block.count == 5) return run_rows<5>(dense, weights, offsets, block, in, finish);
        return run_rows<6>(dense, weights, offsets, block, in, finish);
      }
  }
}

// All outputs of a flat pass for kNumGroups groups side by side. in: its first term's first group
template <int32_t kNumGroups, class Finish>
inline void run_groups(const Dense& dense, const float* weights, const int32_t* offsets, const float* in,
                       Finish finish) {
  const float* groups[kNumGroups];
  for (int32_t g = 0; g < kNumGroups; ++g) groups[g] = in + g * kLanes;
  const int32_t num_blocks = num_output_blocks(dense.num_outputs, kRows);
  for (int32_t i = 0; i < num_blocks; ++i) {
    run_block<kNumGroups>(dense, weights, offsets, output_block(dense.num_outputs, kRows, i), groups, finish);
  }
}

// finish(output, Vec (&sums)[groups])
template <class Finish>
inline void run_flat(const Dense& dense, const float* weights, const int32_t* offsets, const float* in,
                     int32_t num_groups, Finish finish) {
  static_assert(kMaxGroups == 4, "the cases below");
  switch (num_groups) {
    case 1:
      return run_groups<1>(dense, weights, offsets, in, finish);
    case 2:
      return run_groups<2>(dense, weights, offsets, in, finish);
    case 3:
      return run_groups<3>(dense, weights, offsets, in, finish);
    default:
      return run_groups<4>(dense, weights, offsets, in, finish);
  }
}

// All outputs at all tiles of a pass over feature maps. in: the origin of its input map.
// The positions are outside: what a tile reads stays in the first cache, while the weights stream past.
template <class Finish>
inline void run_tiles(const Dense& dense, const float* weights, const int32_t* offsets, const Tile* tiles,
                      const float* in, Finish finish) {
  const int32_t num_blocks = num_output_blocks(dense.num_outputs, kRows);
  for (const Tile* tile = tiles + dense.tiles; tile != tiles + dense.tiles + dense.num_tiles; ++tile) {
    const float* positions[kTileSize];
    for (int32_t p = 0; p < kTileSize; ++p) positions[p] = in + tile->in[p];
    for (int32_t i = 0; i < num_blocks; ++i) {
      const OutputBlock block = output_block(dense.num_outputs, kRows, i);
      run_block<kTileSize>(dense, weights, offsets, block, positions,
                           [&](int32_t output, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
                             finish(*tile, output, sum);
                           });
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
