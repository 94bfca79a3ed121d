// The passes of a network for the samples of a block, and the weights in their order. No torch.
#pragma once

#include "network/cuda/block_pooling.cuh"
#include "network/cuda/block_tensor.cuh"

namespace pydrift {

// Runs the passes [begin, end) with the packed weights of one model.
__device__ inline void run_passes(const Block& block, const BlockNetwork& network, const float* packed, int32_t begin,
                                  int32_t end) {
  int32_t next_warp = 0;
  for (int32_t i = begin; i < end; ++i) {
    const Pass& pass = network.passes[i];
    if (pass.is_flat) {
      run_flat_product(block, pass, network.tables, packed, network.num_slots);
    } else if (pass.kind == PassKind::kProduct) {
      next_warp = run_product(block, pass, network.tables, packed, network.num_slots, next_warp);
    } else if (pass.kind == PassKind::kScale) {
      run_scale(block, pass, network.tables, packed, network.num_slots);
    } else if (pass.kind == PassKind::kMaxPool || pass.kind == PassKind::kAvgPool) {
      run_pooling(block, pass, network.tables, network.num_slots);
    } else {
      run_pooling_back(block, pass, network.tables, network.num_slots);
    }
    if (pass.ends_phase) block.sync();
  }
}

// Copies the weights of linear layers that this block needs at each step to shared memory. Call it before the first
// pass.
__device__ inline void keep_weights(const Block& block, const BlockNetwork& network, const float* packed) {
  for (int32_t p = 0; p < network.num_forward + network.num_back; ++p) {
    keep_weights(block, network.passes[p], packed, network.num_slots);
  }
}

// What is in word `index` of a pass's weights: the output, and which of its products; in a word of two numbers also the
// one 4 further on, as the lanes of add_steps() read their columns.
struct PackedWord {
  int32_t output, k;

  __device__ PackedWord(const Pass& pass, int64_t index) {
    int32_t num_steps = pass.num_steps(), row_length = pass.padded_outputs, piece = 0;
    if (pass.is_flat) {
      num_steps = pass.split_depth / fragment_depth(pass.arithmetic), row_length = kFlatRows;
      piece = static_cast<int32_t>(index / pass.words_per_piece());
      index %= pass.words_per_piece();
    }
    if (pass.arithmetic == Arithmetic::kFma) {
      output = static_cast<int32_t>(index % row_length), k = static_cast<int32_t>(index / row_length);
    } else {
      const int32_t part = static_cast<int32_t>(index % 4), lane = static_cast<int32_t>(index / 4 % kWarpSize);
      const int32_t fragment = static_cast<int32_t>(index / 4 / kWarpSize);
      output = fragment / num_steps * kFragmentRows + lane / 4 + part % 2 * 8;
      k = fragment % num_steps * fragment_depth(pass.arithmetic) + lane % 4 +
          part / 2 * 4 * numbers_per_word(pass.arithmetic);
    }
    if (!pass.is_flat) return;
    output += piece % pass.num_output_tiles() * kFlatRows;
    k += piece / pass.num_output_tiles() * pass.split_depth;
  }
};

// The weights of each pass in the order in which it reads them, padded with zeros.
__device__ inline void pack_all(const BlockNetwork& network) {
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, stride = int64_t{gridDim.x} * blockDim.x;
  for (int32_t p = 0; p < network.num_forward + network.num_back; ++p) {
    const Pass& pass = network.passes[p];
    const int64_t num_weights = pass.num_words(), num_words = num_weights + pass.padded_outputs;
    for (int64_t i = first; i < num_words * network.num_models; i += stride) {
      const int64_t model = i / num_words, index = i % num_words;
      const float* from = network.parameters + model * network.num_parameters;
      float* to = network.packed + model * network.packed_size;
      if (index < num_weights) {
        const PackedWord word(pass, index);
        const auto weight = [&](int32_t k) {
          if (word.output >= pass.num_outputs || k >= pass.depth) return 0.0f;
          return from[pass.weight_source + network.tables[pass.source_rows + k] +
                      int64_t{word.output} * pass.source_stride];
        };
        to[pass.weights + index] = pass.arithmetic == Arithmetic::kBfloat16
                                       ? __uint_as_float(to_bfloat16_pair(weight(word.k), weight(word.k + 4)))
                                       : weight(word.k);
      } else if (pass.bias >= 0) {
        const int64_t output = index - num_weights;
        to[pass.bias + output] = output < pass.num_outputs ? from[pass.bias_source + output] : 0.0f;
      }
    }
  }
}

}  // namespace pydrift
