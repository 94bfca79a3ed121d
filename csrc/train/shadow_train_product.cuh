// Forward passes and data gradients of linear layers and convolutions. No torch; the tests execute it on the host.
//
//     out[o][position] = bias[o] + sum over k of weight[k][o] * in[base(position) + offset[k]]
//
// A thread computes kWarpRows outputs of one sample at the positions of a tile. Weights pass through shared memory. The
// warps of a block share what they read of the input through the L1 cache.
#pragma once

#include "train/shadow_train_block.cuh"

namespace pydrift {

inline constexpr int32_t kRowVectors = kWarpRows / 4;
// Floats from one term to the next. Four more than the outputs keep the vectors aligned and cause fewer bank conflicts.
inline constexpr int32_t kWeightPitch = kProductRows + 4;

// The weights of a block's outputs for some terms, [term][output], and where those terms are read.
__device__ __forceinline__ void load_weights(const TrainBlock& block, const Dense& dense, int32_t first_row,
                                             int32_t first_term, int32_t num_terms, float* weights, int32_t* offsets) {
  const int64_t terms = dense.terms + first_term;
  const bool outputs_adjoin = dense.output_step == 1;  // else terms do; neighbouring threads read neighbours in memory
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  constexpr int32_t kLoads = kProductTerms * kProductRows / kTrainThreads;
  const auto term_of = [&](int32_t i) {
    const int32_t at = i * kTrainThreads + thread;
    return outputs_adjoin ? at / kProductRows : at % kProductTerms;
  };
  const auto row_of = [&](int32_t i) {
    const int32_t at = i * kTrainThreads + thread;
    return outputs_adjoin ? at % kProductRows : at / kProductTerms;
  };
  float loaded[kLoads];  // all loads are issued before the first store
  PYDRIFT_UNROLL
  for (int32_t i = 0; i < kLoads; ++i) {
    const int32_t k = term_of(i), row = first_row + row_of(i);
    loaded[i] = 0.0f;
    if (k < num_terms && row < dense.num_outputs) {
      loaded[i] = block.parameters()[block.arguments.term_parameters[terms + k] + row * dense.output_step];
    }
  }
  PYDRIFT_UNROLL
  for (int32_t i = 0; i < kLoads; ++i) weights[term_of(i) * kWeightPitch + row_of(i)] = loaded[i];
  for (int32_t k = threadIdx.x; k < num_terms; k += kTrainThreads) offsets[k] = block.arguments.offsets[terms + k];
}

template <int32_t kPositions>
__device__ __forceinline__ void finish_rows(const TrainBlock& block, const ProductPass& pass, const Tile& tile,
                                            int32_t group, int32_t first_row,
                                            const float (&sum)[kWarpRows][kPositions]) {
  float* out = block.at(pass.out, group);
  const bool has_codes = pass.codes >= 0;
  uint8_t* codes = block.codes_at(has_codes ? pass.codes : 0, group);
  const int32_t num_positions = pass.out.plane_size();
  PYDRIFT_UNROLL
  for (int32_t r = 0; r < kWarpRows; ++r) {
    const int32_t row = first_row + r;
    if (row >= pass.dense.num_outputs) continue;
    float* to = out + int64_t{row} * pass.out.plane;
    uint8_t* code_to = codes + int64_t{row} * num_positions * kWarpSize;
    if (pass.pooled) {
      float best = sum[r][0];
      int32_t code = 0;
      PYDRIFT_UNROLL
      for (int32_t p = 1; p < kPositions; ++p) {
        code = sum[r][p] > best ? p : code;
        best = sum[r][p] > best ? sum[r][p] : best;
      }
      if (pass.relu) {
        code = best > 0.0f ? code : kDeadCode;
        best = rectified(best);
      }
      to[tile.out[0]] = best;
      code_to[tile.index[0] * kWarpSize] = static_cast<uint8_t>(code);
      continue;
    }
    PYDRIFT_UNROLL
    for (int32_t p = 0; p < kPositions; ++p) {
      to[tile.out[p]] = pass.relu ? rectified(sum[r][p]) : sum[r][p];
      if (has_codes) code_to[tile.index[p] * kWarpSize] = sum[r][p] > 0.0f ? 0 : kDeadCode;
    }
  }
}

// kPositions: kTileSize, or 1 for flat passes, which have one tile.
template <int32_t kPositions>
__global__ void __launch_bounds__(kTrainThreads, 2)
    product_kernel(TrainArguments arguments, ProductPass pass, int32_t blocks_per_model) {
  __shared__ float4 weights[kProductTerms * kWeightPitch / 4];
  __shared__ int32_t offsets[kProductTerms];
  [[maybe_unused]] constexpr int32_t kTermsTogether = kPositions > 1 ? 2 : 4;  // more would not fit in the registers
  const TrainBlock block(arguments, blocks_per_model);
  const Dense& dense = pass.dense;
  const int32_t num_row_blocks = count_blocks(dense.num_outputs, kProductRows);
  const int32_t first_column = block.number / num_row_blocks * kTileWarps;  // tiles of group after group
  if (first_column / dense.num_tiles >= block.num_groups()) return;
  const int32_t column = first_column + block.warp / kRowWarps, group = column / dense.num_tiles;
  const int32_t block_row = block.number % num_row_blocks * kProductRows;
  const int32_t warp_row = block.warp % kRowWarps * kWarpRows, first_row = block_row + warp_row;
  const bool idle = group >= block.num_groups() || first_row >= dense.num_outputs;

  float sum[kWarpRows][kPositions];
  PYDRIFT_UNROLL
  for (int32_t r = 0; r < kWarpRows; ++r) {
    const bool biased = pass.bias >= 0 && first_row + r < dense.num_outputs;
    const float bias = biased ? block.parameters()[pass.bias + first_row + r] : 0.0f;
    PYDRIFT_UNROLL
    for (int32_t p = 0; p < kPositions; ++p) sum[r][p] = bias;
  }
  const Tile& tile = arguments.tiles[dense.tiles + column % dense.num_tiles];
  const float* in[kPositions];
  PYDRIFT_UNROLL
  for (int32_t p = 0; p < kPositions; ++p) in[p] = block.at(pass.in, idle ? 0 : group) + tile.in[p];
  for (int32_t first_term = 0; first_term < dense.num_terms; first_term += kProductTerms) {
    const int32_t left = dense.num_terms - first_term, num_terms = left < kProductTerms ? left : kProductTerms;
    __syncthreads();  // all threads have finished the terms before
    load_weights(block, dense, block_row, first_term, num_terms, reinterpret_cast<float*>(weights), offsets);
    __syncthreads();
    if (idle) continue;
    PYDRIFT_UNROLL_BY(kTermsTogether)
    for (int32_t k = 0; k < num_terms; ++k) {
      float value[kPositions];
      PYDRIFT_UNROLL
      for (int32_t p = 0; p < kPositions; ++p) value[p] = in[p][offsets[k]];
      const float4* row = weights + (k * kWeightPitch + warp_row) / 4;
      PYDRIFT_UNROLL
      for (int32_t v = 0; v < kRowVectors; ++v) {
        const float4 factor = row[v];
        PYDRIFT_UNROLL
        for (int32_t p = 0; p < kPositions; ++p) {
          sum[4 * v][p] = fmaf(factor.x, value[p], sum[4 * v][p]);
          sum[4 * v + 1][p] = fmaf(factor.y, value[p], sum[4 * v + 1][p]);
          sum[4 * v + 2][p] = fmaf(factor.z, value[p], sum[4 * v + 2][p]);
          sum[4 * v + 3][p] = fmaf(factor.w, value[p], sum[4 * v + 3][p]);
        }
      }
    }
  }
  if (!idle) finish_rows(block, pass, tile, group, first_row, sum);
}

}  // namespace pydrift
