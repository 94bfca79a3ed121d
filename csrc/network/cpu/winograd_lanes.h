// 3x3 convolution at stride 1 as Winograd's F(2x2, 3x3), with one restart per lane. No torch.
//
// A tile is 2x2 outputs, and what they see a patch of 4x4 inputs. Patch d and kernel g become B d B^T and G g G^T, both
// 4x4; their elementwise products, added up over the channels, become the outputs by A^T m A:
//
//     B = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]    A^T = [1 1 1 0; 0 1 -1 -1]    G in pack.cpp
//
// 16 multiply-adds instead of 36 (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015). Constants
// of 1 and 1/2 only: the error is that of a sum term by term, and no output sees an input outside of its window.
#pragma once

#include "network/cpu/dense_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// B of four vectors that lie `step` apart, in place.
PYDRIFT_INLINE void transform_line(Vec* line, int32_t step) {
  const Vec a = line[0], b = line[step], c = line[2 * step], d = line[3 * step];
  line[0] = a - c, line[step] = b + c, line[2 * step] = c - b, line[3 * step] = b - d;
}

// The patches of kTileSize tiles in Winograd's domain: patches [kPatchSize][patch_pitch] vectors, of which the first
// [num_channels][kTileSize] are filled.
inline void transform_patches(const Dense& dense, const int32_t* offsets, const Tile* const (&tiles)[kTileSize],
                              const Map& map, const float* in, float* patches) {
  const int32_t num_channels = dense.num_terms / kSmallTaps;
  const int64_t step = int64_t{patch_pitch(num_channels)} * kLanes;
  for (int32_t c = 0; c < num_channels; ++c) {
    const float* corner = in + offsets[dense.terms + c * kSmallTaps];
    for (int32_t t = 0; t < kTileSize; ++t) {
      const float* from = corner + tiles[t]->in[0];
      Vec patch[kPatchSize];
#pragma GCC unroll 4
      for (int32_t i = 0; i < kPatchWidth; ++i) {
#pragma GCC unroll 4
        for (int32_t j = 0; j < kPatchWidth; ++j) {
          patch[i * kPatchWidth + j] = load(from + i * int64_t{map.row} + j * map.pitch);
        }
      }
#pragma GCC unroll 4
      for (int32_t i = 0; i < kPatchWidth; ++i) transform_line(patch + i * kPatchWidth, 1);
#pragma GCC unroll 4
      for (int32_t j = 0; j < kPatchWidth; ++j) transform_line(patch + j, kPatchWidth);
      float* to = patches + (int64_t{c} * kTileSize + t) * kLanes;
#pragma GCC unroll 16
      for (int32_t e = 0; e < kPatchSize; ++e) store(to + e * step, patch[e]);
    }
  }
}

// The products of a block of kNumRows outputs, added up over the channels: products [kPatchSize][kNumRows][kTileSize].
template <int32_t kNumRows>
inline void multiply_patches(const float* weight, const float* patches, int32_t num_channels, Vec* products) {
  for (int32_t e = 0; e < kPatchSize; ++e, products += kNumRows * kTileSize) {
    const float* patch = patches + e * int64_t{patch_pitch(num_channels)} * kLanes;
    Vec sum[kNumRows][kTileSize] = {};
    for (int32_t c = 0; c < num_channels; ++c, weight += kNumRows, patch += kTileSize * kLanes) {
      add_products(weight, 1, [&](int32_t t) __attribute__((always_inline)) { return load(patch + t * kLanes); }, sum);
    }
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) {
#pragma GCC unroll 8
      for (int32_t t = 0; t < kTileSize; ++t) products[r * kTileSize + t] = sum[r][t];
    }
  }
}

// A^T m A plus the bias, of products that lie `step` apart.
PYDRIFT_INLINE void outputs_of(const Vec* products, int32_t step, Vec bias, Vec (&sum)[kTileSize]) {
  Vec half[2][kPatchWidth];
#pragma GCC unroll 4
  for (int32_t j = 0; j < kPatchWidth; ++j) {
    const Vec a = products[j * step], b = products[(kPatchWidth + j) * step];
    const Vec c = products[(2 * kPatchWidth + j) * step], d = products[(3 * kPatchWidth + j) * step];
    half[0][j] = a + b + c, half[1][j] = b - c - d;
  }
#pragma GCC unroll 2
  for (int32_t i = 0; i < 2; ++i) {
    sum[2 * i] = half[i][0] + half[i][1] + half[i][2] + bias;
    sum[2 * i + 1] = half[i][1] - half[i][2] - half[i][3] + bias;
  }
}

// As run_tiles, for a pass in Winograd's tiles over `map`, whose origin is `in`. patches: PlanView::patches
template <class Finish>
inline void run_winograd(const Dense& dense, const float* weights, const int32_t* offsets, const Tile* tiles,
                         const Map& map, const float* in, float* patches, Finish finish) {
  const OutputBlocks blocks(dense.num_outputs, kRows);
  const int32_t num_channels = dense.num_terms / kSmallTaps;
  for (int32_t first = 0; first < dense.num_tiles; first += kTileSize) {
    const Tile* together[kTileSize];
    for (int32_t t = 0; t < kTileSize; ++t) {  // the last tile may come several times
      const int32_t last = dense.num_tiles - 1;
      together[t] = tiles + dense.tiles + (first + t < last ? first + t : last);
    }
    transform_patches(dense, offsets, together, map, in, patches);
    for (int32_t i = 0; i < blocks.num_blocks; ++i) {
      const OutputBlock block = blocks[i];
      const float* weight = weights + dense.weight + int64_t{block.begin} * num_channels * kPatchSize;
      Vec products[kPatchSize * kRows * kTileSize];
      with_rows(
          block.count, [&](auto rows) __attribute__((always_inline)) {
            multiply_patches<rows.kValue>(weight, patches, num_channels, products);
          });
      const int32_t step = block.count * kTileSize;
      for (int32_t r = 0; r < block.count; ++r) {
        const Vec bias = dense.bias < 0 ? Vec{} : all(weights[dense.bias + block.begin + r]);
        for (int32_t t = 0; t < kTileSize && first + t < dense.num_tiles; ++t) {
          Vec sum[kTileSize];
          outputs_of(products + r * kTileSize + t, step, bias, sum);
          finish(*together[t], block.begin + r, sum);
        }
      }
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
