// The passes of a network for the samples of a team, and the weights in their order. No torch.
#pragma once

#include "arch/team_pooling.cuh"
#include "arch/team_tensor.cuh"

namespace pydrift {

// Of the model whose weights `packed` are.
__device__ inline void run_passes(const Team& team, const TeamNetwork& network, const float* packed, int32_t begin,
                                  int32_t end) {
  int32_t next_warp = 0;
  for (int32_t i = begin; i < end; ++i) {
    const Pass& pass = network.passes[i];
    if (pass.is_flat) {
      run_flat_product(team, pass, network.tables, packed, network.num_slots);
    } else if (pass.kind == PassKind::kProduct) {
      next_warp = run_product(team, pass, network.tables, packed, network.num_slots, next_warp);
    } else if (pass.kind == PassKind::kScale) {
      run_scale(team, pass, network.tables, packed, network.num_slots);
    } else if (pass.kind == PassKind::kMaxPool || pass.kind == PassKind::kAvgPool) {
      run_pooling(team, pass, network.tables, network.num_slots);
    } else {
      run_pooling_back(team, pass, network.tables, network.num_slots);
    }
    if (pass.ends_phase) team.sync();
  }
}

// Weight `index` of a pass: which output and which of its products.
struct PackedWeight {
  int32_t output, k;

  __device__ PackedWeight(const Pass& pass, int64_t index) {
    if (pass.arithmetic == Arithmetic::kFma) {
      output = static_cast<int32_t>(index % pass.padded_outputs), k = static_cast<int32_t>(index / pass.padded_outputs);
      return;
    }
    const int32_t part = static_cast<int32_t>(index % 4), lane = static_cast<int32_t>(index / 4 % kWarpSize);
    const int32_t fragment = static_cast<int32_t>(index / 4 / kWarpSize);
    output = fragment / pass.num_steps() * kFragmentRows + lane / 4 + part % 2 * 8;
    k = fragment % pass.num_steps() * kFragmentDepth + lane % 4 + part / 2 * 4;
  }
};

// The weights of each pass in the order in which it reads them, padded with zeros.
__device__ inline void pack_all(const TeamNetwork& network) {
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, stride = int64_t{gridDim.x} * blockDim.x;
  for (int32_t p = 0; p < network.num_forward + network.num_back; ++p) {
    const Pass& pass = network.passes[p];
    const int64_t num_weights = pass.num_weights(), num_numbers = num_weights + pass.padded_outputs;
    for (int64_t i = first; i < num_numbers * network.num_models; i += stride) {
      const int64_t model = i / num_numbers, index = i % num_numbers;
      const float* from = network.parameters + model * network.num_parameters;
      float* to = network.packed + model * network.packed_size;
      if (index < num_weights) {
        const PackedWeight weight(pass, index);
        const bool real = weight.output < pass.num_outputs && weight.k < pass.depth;
        to[pass.weights + index] = real ? from[pass.weight_source + network.tables[pass.source_rows + weight.k] +
                                               int64_t{weight.output} * pass.source_stride]
                                        : 0.0f;
      } else if (pass.bias >= 0) {
        const int64_t output = index - num_weights;
        to[pass.bias + output] = output < pass.num_outputs ? from[pass.bias_source + output] : 0.0f;
      }
    }
  }
}

}  // namespace pydrift
