// Gradients in the weights of linear layers and convolutions. No torch; the tests execute it on the host.
//
//     gradient[o][k] = sum over positions and samples of delta[o][position] * in[base(position) + offset[k]]
//
// where delta is the gradient before pooling and ReLU, computed with the codes from the one behind them. A thread sums
// kGradientRows x kGradientTerms of these over the positions, for the samples in its lane. Then the lanes are added, in
// an order that depends only on the program.
#pragma once

#include "train/shadow_train_block.cuh"

namespace pydrift {

// Lane i gets the sum of values[i] over the lanes. Overwrites the values.
__device__ __forceinline__ float sum_of_lane(float (&values)[kWarpSize], int32_t lane) {
  PYDRIFT_UNROLL
  for (int32_t step = 1; 1 << step <= kWarpSize; ++step) {
    const int32_t half = kWarpSize >> step;
    const bool upper = (lane & half) != 0;  // which half of the values stays here
    PYDRIFT_UNROLL
    for (int32_t i = 0; i < kWarpSize / 2; ++i) {
      if (i >= half) continue;  // the loop's limit must be a constant, or the values leave the registers
      const float given = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, given, half);
    }
  }
  return values[0];
}

// The sums of one warp: [kGradientRows][kGradientTerms] weights, then [kGradientRows] biases.
inline constexpr int32_t kGradientWeights = kGradientRows * kGradientTerms;
inline constexpr int32_t kGradientSums = kGradientWeights + kGradientRows;
static_assert(kGradientWeights % kWarpSize == 0 && kGradientRows <= kWarpSize);

// A position of the gradient behind pooling and ReLU, and the positions before them that it may belong to.
template <int32_t kPositions>
struct GradientUnit {
  int32_t group, index;
  const int32_t* places;  // [kPositions]: base(position)

  __device__ GradientUnit(const TrainBlock& block, const GradientPass& pass, int32_t unit)
      : group(unit / pass.num_positions) {
    const int32_t position = unit % pass.num_positions;
    const Tile* tiles = block.arguments.tiles + pass.dense.tiles;
    const Tile& tile = tiles[kPositions > 1 ? position : position / kTileSize];
    const int32_t first = kPositions > 1 ? 0 : position % kTileSize;
    index = tile.index[first], places = tile.in + first;
  }
};

// The gradient of some outputs, and the position that each belongs to. Rows beyond the last output repeat the last.
struct Shares {
  float share[kGradientRows];
  int32_t code[kGradientRows];

  template <int32_t kPositions>
  __device__ Shares(const TrainBlock& block, const GradientPass& pass, const GradientUnit<kPositions>& unit,
                    int32_t first_row) {
    const float* gradient = block.at(pass.gradient, unit.group) + unit.index * pass.gradient.pitch;
    const bool has_codes = pass.codes >= 0;
    const uint8_t* codes = block.codes_at(has_codes ? pass.codes : 0, unit.group) + unit.index * kWarpSize;
    PYDRIFT_UNROLL
    for (int32_t r = 0; r < kGradientRows; ++r) {
      const int32_t row = first_row + r < pass.dense.num_outputs ? first_row + r : pass.dense.num_outputs - 1;
      share[r] = gradient[int64_t{row} * pass.gradient.plane];
      code[r] = has_codes ? codes[int64_t{row} * pass.num_positions * kWarpSize] : 0;
    }
  }
};

// kPositions: kTileSize with pooling, whose tiles share one gradient, else 1.
template <int32_t kPositions>
__device__ __forceinline__ void sum_weights(const TrainBlock& block, const GradientPass& pass, int32_t first_row,
                                            int32_t first_term, int32_t split, int32_t num_splits, float* sums) {
  float sum[kGradientRows][kGradientTerms] = {};
  int32_t offsets[kGradientTerms];  // terms beyond the last repeat the last
  PYDRIFT_UNROLL
  for (int32_t t = 0; t < kGradientTerms; ++t) {
    const int32_t term = first_term + t < pass.dense.num_terms ? first_term + t : pass.dense.num_terms - 1;
    offsets[t] = block.arguments.offsets[pass.dense.terms + term];
  }
  const int32_t num_units = pass.num_positions * block.num_groups();
  for (int32_t i = split; i < num_units; i += num_splits) {
    const GradientUnit<kPositions> unit(block, pass, i);
    const Shares shares(block, pass, unit, first_row);
    const float* in = block.at(pass.in, unit.group);
    PYDRIFT_UNROLL_BY(1)  // all at once would need more registers than there are
    for (int32_t p = 0; p < kPositions; ++p) {
      float delta[kGradientRows];
      PYDRIFT_UNROLL
      for (int32_t r = 0; r < kGradientRows; ++r) delta[r] = shares.code[r] == p ? shares.share[r] : 0.0f;
      const float* position = in + unit.places[p];
      PYDRIFT_UNROLL
      for (int32_t t = 0; t < kGradientTerms; ++t) {
        const float value = position[offsets[t]];
        PYDRIFT_UNROLL
        for (int32_t r = 0; r < kGradientRows; ++r) sum[r][t] = fmaf(delta[r], value, sum[r][t]);
      }
    }
  }
  PYDRIFT_UNROLL
  for (int32_t begin = 0; begin < kGradientWeights; begin += kWarpSize) {
    float values[kWarpSize];
    PYDRIFT_UNROLL
    for (int32_t i = 0; i < kWarpSize; ++i) {
      values[i] = sum[(begin + i) / kGradientTerms][(begin + i) % kGradientTerms];
    }
    sums[begin + block.lane] = sum_of_lane(values, block.lane);
  }
}

template <int32_t kPositions>
__device__ __forceinline__ void sum_biases(const TrainBlock& block, const GradientPass& pass, int32_t first_row,
                                           int32_t split, int32_t num_splits, float* sums) {
  float values[kWarpSize] = {};
  const int32_t num_units = pass.num_positions * block.num_groups();
  for (int32_t i = split; i < num_units; i += num_splits) {
    const Shares shares(block, pass, GradientUnit<kPositions>(block, pass, i), first_row);
    PYDRIFT_UNROLL
    for (int32_t r = 0; r < kGradientRows; ++r) values[r] += shares.code[r] == kDeadCode ? 0.0f : shares.share[r];
  }
  const float total = sum_of_lane(values, block.lane);
  if (block.lane < kGradientRows) sums[kGradientWeights + block.lane] = total;
}

template <int32_t kPositions>
__global__ void __launch_bounds__(kTrainThreads, 2)
    gradient_kernel(TrainArguments arguments, GradientPass pass, int32_t blocks_per_model) {
  __shared__ float sums[kTrainWarps][kGradientSums];
  const TrainBlock block(arguments, blocks_per_model);
  if (block.count == 0) return;
  const Dense& dense = pass.dense;
  const int32_t num_row_blocks = count_blocks(dense.num_outputs, kGradientRows);
  const int32_t num_term_warps = count_term_warps(dense.num_terms), num_splits = kTrainWarps / num_term_warps;
  const int32_t first_row = block.number % num_row_blocks * kGradientRows;
  const int32_t first_term =
      (block.number / num_row_blocks * num_term_warps + block.warp % num_term_warps) * kGradientTerms;
  const int32_t split = block.warp / num_term_warps;
  if (first_term < dense.num_terms) {
    sum_weights<kPositions>(block, pass, first_row, first_term, split, num_splits, sums[block.warp]);
    if (first_term == 0) sum_biases<kPositions>(block, pass, first_row, split, num_splits, sums[block.warp]);
  }
  __syncthreads();
  if (split > 0 || first_term >= dense.num_terms) return;
  for (int32_t i = block.lane; i < (first_term > 0 ? kGradientWeights : kGradientSums); i += kWarpSize) {
    const bool is_bias = i >= kGradientWeights;
    const int32_t row = first_row + (is_bias ? i - kGradientWeights : i / kGradientTerms);
    const int32_t term = first_term + (is_bias ? 0 : i % kGradientTerms);
    if (row >= dense.num_outputs || term >= dense.num_terms) continue;
    float total = 0.0f;
    for (int32_t s = 0; s < num_splits; ++s) total += sums[block.warp + s * num_term_warps][i];
    const int64_t parameter =
        is_bias ? pass.bias + row : arguments.term_parameters[dense.terms + term] + row * dense.output_step;
    float& gradient = block.gradients()[parameter];
    gradient = arguments.slice == 0 ? total : gradient + total;
  }
}

}  // namespace pydrift
