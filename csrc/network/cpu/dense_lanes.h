// The dense kernel: every multiply-add of a network, forward and backward. See plan.h for the formula. No torch.
#pragma once

#include "network/cpu/lanes.h"
#include "network/program/plan.h"

namespace pydrift {
namespace PYDRIFT_LANES {

template <int32_t kNumRows, int32_t kNumPositions>
PYDRIFT_INLINE void begin_sums(const Dense& dense, const float* weights, int32_t first_output,
                               Vec (&sum)[kNumRows][kNumPositions]) {
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
    const Vec bias = dense.bias < 0 ? Vec{} : all(weights[dense.bias + first_output + r]);
#pragma GCC unroll 8
    for (int32_t p = 0; p < kNumPositions; ++p) sum[r][p] = bias;
  }
}

// sum[r][p] += weight[r * stride] * value(p), with the factor that has fewer values held in registers.
template <int32_t kNumRows, int32_t kNumPositions, class Value>
PYDRIFT_INLINE void add_products(const float* weight, int64_t stride, Value value,
                                 Vec (&sum)[kNumRows][kNumPositions]) {
  if constexpr (kNumRows < kNumPositions) {
    Vec factors[kNumRows];
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) factors[r] = all(weight[r * stride]);
#pragma GCC unroll 8
    for (int32_t p = 0; p < kNumPositions; ++p) {
      const Vec factor = value(p);
#pragma GCC unroll 8
      for (int32_t r = 0; r < kNumRows; ++r) sum[r][p] = multiply_add(factors[r], factor, sum[r][p]);
    }
  } else {
    Vec values[kNumPositions];
#pragma GCC unroll 8
    for (int32_t p = 0; p < kNumPositions; ++p) values[p] = value(p);
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) {
      const Vec factor = all(weight[r * stride]);
#pragma GCC unroll 8
      for (int32_t p = 0; p < kNumPositions; ++p) sum[r][p] = multiply_add(factor, values[p], sum[r][p]);
    }
  }
}

// kNumRows outputs, a whole block, at kNumPositions positions. weight: [num_terms][kNumRows], offset: [num_terms]
template <int32_t kPrefetch, int32_t kNumRows, int32_t kNumPositions>
PYDRIFT_INLINE void accumulate(const float* weight, const int32_t* offset, int32_t num_terms,
                               const float* const (&in)[kNumPositions], Vec (&sum)[kNumRows][kNumPositions]) {
  for (int32_t k = 0; k < num_terms; ++k, weight += kNumRows) {
    if constexpr (kPrefetch > 0) __builtin_prefetch(weight + kPrefetch);
    add_products(weight, 1, [&](int32_t p) __attribute__((always_inline)) { return load(in[p] + offset[k]); }, sum);
  }
}

template <int32_t kCount>
struct Count {
  static constexpr int32_t kValue = kCount;
};

// run(Count<rows>) for the number of rows of a block.
template <class Run>
PYDRIFT_INLINE void with_rows(int32_t count, Run run) {
  static_assert(kRows <= 6, "the cases below");
  switch (count) {
    case 1:
      return run(Count<1>{});
    case 2:
      return run(Count<2>{});
    case 3:
      return run(Count<3>{});
    default:
      if constexpr (kRows > 3) {
        if (count == 4) return run(Count<4>{});
        if (count == 5) return run(Count<5>{});
        return run(Count<6>{});
      }
  }
}

// run(Count<groups>) for the number of groups of a slice.
template <class Run>
PYDRIFT_INLINE void with_groups(int32_t count, Run run) {
  static_assert(kMaxGroups == 4, "the cases below");
  switch (count) {
    case 1:
      return run(Count<1>{});
    case 2:
      return run(Count<2>{});
    case 3:
      return run(Count<3>{});
    default:
      return run(Count<4>{});
  }
}

// ---- Flat passes: the positions are the groups, side by side. All outputs use one panel of terms before the next one.
// What a panel reads stays in the L1 cache while the weights stream past; partial sums are kept in `out`.

struct Panel {
  int32_t first, num_terms;
};

template <int32_t kNumRows, int32_t kNumGroups, class Finish>
PYDRIFT_INLINE void run_flat_rows(const Dense& dense, const float* weights, const int32_t* offsets, Panel panel,
                                  int32_t first_output, const float* in, float* out, int64_t plane, Finish finish) {
  // Weights are read once per pass and are far away in memory: they are prefetched by this many floats.
  constexpr int32_t kPrefetch = 768;
  const float* groups[kNumGroups];
#pragma GCC unroll 8
  for (int32_t g = 0; g < kNumGroups; ++g) groups[g] = in + g * kLanes;
  Vec sum[kNumRows][kNumGroups];
  float* sums = out + first_output * plane;
  if (panel.first == 0) {
    begin_sums(dense, weights, first_output, sum);
  } else {
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) {
#pragma GCC unroll 8
      for (int32_t g = 0; g < kNumGroups; ++g) sum[r][g] = load(sums + r * plane + g * kLanes);
    }
  }
  const int64_t weight = dense.weight + int64_t{panel.first} * dense.num_outputs + first_output * panel.num_terms;
  accumulate<kPrefetch>(weights + weight, offsets + dense.terms + panel.first, panel.num_terms, groups, sum);
  const bool last = panel.first + panel.num_terms == dense.num_terms;
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
#pragma GCC unroll 8
    for (int32_t g = 0; g < kNumGroups; ++g) {
      store(sums + r * plane + g * kLanes, last ? finish(sum[r][g]) : sum[r][g]);
    }
  }
}

template <int32_t kNumGroups, class Finish>
inline void run_groups(const Dense& dense, const float* weights, const int32_t* offsets, const float* in, float* out,
                       int64_t plane, Finish finish) {
  const OutputBlocks blocks(dense.num_outputs, kRows);
  for (int32_t first = 0; first < dense.num_terms; first += dense.panel) {
    const int32_t left = dense.num_terms - first;
    const Panel panel{first, left < dense.panel ? left : dense.panel};
    for (int32_t i = 0; i < blocks.num_blocks; ++i) {
      const OutputBlock block = blocks[i];
      with_rows(
          block.count, [&](auto rows) __attribute__((always_inline)) {
            run_flat_rows<rows.kValue, kNumGroups>(dense, weights, offsets, panel, block.begin, in, out, plane, finish);
          });
    }
  }
}

// in, out: the origins of the flat maps; plane: from one output to the next; finish(Vec) -> Vec
template <class Finish>
inline void run_flat(const Dense& dense, const float* weights, const int32_t* offsets, const float* in, float* out,
                     int64_t plane, int32_t num_groups, Finish finish) {
  with_groups(
      num_groups, [&](auto groups) __attribute__((always_inline)) {
        run_groups<groups.kValue>(dense, weights, offsets, in, out, plane, finish);
      });
}

// ---- Passes over feature maps: tiles of positions of one group.

template <int32_t kNumRows, class Finish>
PYDRIFT_INLINE void run_rows(const Dense& dense, const float* weights, const int32_t* offsets, int32_t first_output,
                             const float* const (&in)[kTileSize], Finish finish) {
  Vec sum[kNumRows][kTileSize];
  begin_sums(dense, weights, first_output, sum);
  const int64_t weight = dense.weight + int64_t{first_output} * dense.num_terms;
  accumulate<0>(weights + weight, offsets + dense.terms, dense.num_terms, in, sum);
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) finish(first_output + r, sum[r]);
}

// All outputs at all tiles; finish(tile, output, Vec (&sums)[kTileSize]). in: the origin of the input map.
// The loop over positions is the outer one: what a tile reads stays in the L1 cache while the weights stream past.
template <class Finish>
inline void run_tiles(const Dense& dense, const float* weights, const int32_t* offsets, const Tile* tiles,
                      const float* in, Finish finish) {
  const OutputBlocks blocks(dense.num_outputs, kRows);
  for (const Tile* tile = tiles + dense.tiles; tile != tiles + dense.tiles + dense.num_tiles; ++tile) {
    const float* positions[kTileSize];
    for (int32_t p = 0; p < kTileSize; ++p) positions[p] = in + tile->in[p];
    for (int32_t i = 0; i < blocks.num_blocks; ++i) {
      const OutputBlock block = blocks[i];
      with_rows(
          block.count, [&](auto rows) __attribute__((always_inline)) {
            run_rows<rows.kValue>(
                dense, weights, offsets, block.begin,
                positions, [&](int32_t output, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
                  finish(*tile, output, sum);
                });
          });
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
