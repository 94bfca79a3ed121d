// The gradient of a whole network in its weights, for the groups of one thread. No torch.
//
// Everything is added to gradients in the model's own order, [Program::num_parameters]. The loss's gradient in the
// logits must be zero in lanes without a sample.
#pragma once

#include "network/cpu/linear_lanes.h"
#include "network/cpu/passes_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// ---- Convolution: gradient[o][term] += sum over positions and samples of spread[o][position] * in[position + term]

// Weights whose gradients are computed together: kGradientOutputs times so many, within the registers.
inline constexpr int32_t kGradientTerms = kLanes == 16 ? 6 : 2;

// kNumOutputs channels of the spread map, kNumTerms terms of the forward pass.
template <int32_t kNumOutputs, int32_t kNumTerms>
PYDRIFT_INLINE void add_conv_tile(const Stage& stage, const float* in, const float* spread, const int32_t* offsets,
                                  float* gradient, int32_t row) {
  const Map &from = stage.in, &to = stage.spread;
  Vec sum[kNumOutputs][kNumTerms] = {};
  for (int32_t y = 0; y < to.height; ++y) {
    const float *in_row = in + y * stage.window.stride_h * int64_t{from.row}, *spread_row = spread + to.at(y, 0);
    for (int32_t x = 0; x < to.width; ++x) {
      const float* position = in_row + x * stage.window.stride_w * int64_t{from.pitch};
      Vec share[kNumOutputs];
#pragma GCC unroll 8
      for (int32_t o = 0; o < kNumOutputs; ++o) share[o] = load(spread_row + int64_t{o} * to.plane + x * to.pitch);
#pragma GCC unroll 8
      for (int32_t t = 0; t < kNumTerms; ++t) {
        const Vec value = load(position + offsets[t]);
#pragma GCC unroll 8
        for (int32_t o = 0; o < kNumOutputs; ++o) sum[o][t] = multiply_add(share[o], value, sum[o][t]);
      }
    }
  }
  constexpr int32_t kNumSums = kNumOutputs * kNumTerms;
#pragma GCC unroll 16
  for (int32_t first = 0; first < kNumSums; first += kLanes) {
    Vec rows[kLanes];
#pragma GCC unroll 16
    for (int32_t i = 0; i < kLanes; ++i) {
      const int32_t n = first + i;
      rows[i] = n < kNumSums ? sum[n / kNumTerms][n % kNumTerms] : Vec{};
    }
    float total[kLanes];
    store(total, sums_of_lanes(rows));
    for (int32_t i = 0; i < kLanes && first + i < kNumSums; ++i) {
      const int32_t n = first + i;
      gradient[n / kNumTerms * row + n % kNumTerms] += total[i];
    }
  }
}

template <int32_t kNumOutputs>
inline void add_conv_rows(const Stage& stage, const float* in, const float* spread, const int32_t* offsets,
                          float* gradient) {
  const int32_t num_terms = stage.forward.num_terms;
  int32_t t = 0;
  for (; t + kGradientTerms <= num_terms; t += kGradientTerms) {
    add_conv_tile<kNumOutputs, kGradientTerms>(stage, in, spread, offsets + t, gradient + t, num_terms);
  }
  if constexpr (kGradientTerms > 3) {
    for (; t + 3 <= num_terms; t += 3) {
      add_conv_tile<kNumOutputs, 3>(stage, in, spread, offsets + t, gradient + t, num_terms);
    }
  }
  for (; t < num_terms; ++t) {
    add_conv_tile<kNumOutputs, 1>(stage, in, spread, offsets + t, gradient + t, num_terms);
  }
}

// Of the channels from `first` on that the spread map holds, `count` of them.
inline void add_conv_gradient(const Network& network, const Stage& stage, int32_t g, int32_t first, int32_t count,
                              float* gradients) {
  const float *in = network.at(stage.in, g), *spread = network.at(stage.spread, g);
  const int32_t* offsets = network.plan.offsets + stage.forward.terms;
  const int64_t plane = stage.spread.plane, row = stage.forward.num_terms;
  float* gradient = gradients + stage.weight_parameters + first * row;
  int32_t c = 0;
  for (; c + kGradientOutputs <= count; c += kGradientOutputs) {
    add_conv_rows<kGradientOutputs>(stage, in, spread + c * plane, offsets, gradient + c * row);
  }
  for (; c < count; ++c) add_conv_rows<1>(stage, in, spread + c * plane, offsets, gradient + c * row);
  for (c = 0; c < count; ++c) {
    Vec sum = {};
    const float* of_channel = spread + c * plane;
    for (int32_t y = 0; y < stage.spread.height; ++y) {
      for (int32_t x = 0; x < stage.spread.width; ++x) sum += load(of_channel + stage.spread.at(y, x));
    }
    float total = 0.0f;
    for (int32_t lane = 0; lane < kLanes; ++lane) total += sum[lane];
    gradients[stage.bias_parameters + first + c] += total;
  }
}

inline void conv_to_weights(const Network& network, const Stage& stage, int32_t g, float* gradients) {
  const int32_t num_outputs = stage.out.channels;
  if (stage.num_backward > 0) {
    conv_spread(network, stage, g, 0);
    add_conv_gradient(network, stage, g, 0, num_outputs, gradients);
    return conv_gather(network, stage, g);
  }
  for (int32_t first = 0; first < num_outputs; first += kGradientOutputs) {
    const int32_t left = num_outputs - first;
    conv_spread(network, stage, g, first);
    add_conv_gradient(network, stage, g, first, left < kGradientOutputs ? left : kGradientOutputs, gradients);
  }
}

// ---- Linear

// parameters [Program::num_parameters]: what `Network::weights` are packed from
inline void linear_from_weights(const Network& network, const Stage& stage, int32_t num_groups,
                                const float* parameters) {
  const bool relu = stage.relu;
  const LinearProduct product{parameters + stage.weight_parameters,
                              stage.in.channels,
                              1,
                              parameters + stage.bias_parameters,
                              stage.out.channels,
                              stage.in.channels,
                              network.at(stage.in, 0),
                              network.at(stage.out, 0),
                              stage.in.plane,
                              stage.out.plane};
  multiply(product, num_groups, [relu](Vec sum) __attribute__((always_inline)) { return relu ? rectified(sum) : sum; });
}

inline void linear_to_weights(const Network& network, const Stage& stage, int32_t num_groups, bool first_with_weights,
                              const float* parameters, float* gradients, float* scratch) {
  if (stage.relu) mask_by_output(network, stage, num_groups);
  const float* gradient = network.at(stage.out_gradient, 0);
  add_linear_gradient(network.at(stage.in, 0), stage.in.channels, gradient, stage.out.channels, stage.in.plane,
                      num_groups, gradients + stage.weight_parameters, gradients + stage.bias_parameters, scratch);
  if (first_with_weights) return;
  const LinearProduct product{parameters + stage.weight_parameters,
                              1,
                              stage.in.channels,
                              nullptr,
                              stage.in.channels,
                              stage.out.channels,
                              gradient,
                              network.at(stage.in_gradient, 0),
                              stage.out_gradient.plane,
                              stage.in_gradient.plane};
  multiply(product, num_groups, [](Vec sum) __attribute__((always_inline)) { return sum; });
}

// ---- The network

// As `forward`, but on the parameters themselves; the maps of all groups are kept for the backward pass.
template <class Prepare>
inline void forward_from_weights(const Network& network, int32_t num_groups, const float* parameters, Prepare prepare) {
  forward_through(network, num_groups, prepare,
                  [&](const Stage& stage) { linear_from_weights(network, stage, num_groups, parameters); });
}

// From plan.logits_gradient; adds to `gradients` [Program::num_parameters].
inline void backward_to_weights(const Network& network, int32_t num_groups, const float* parameters, float* gradients,
                                float* scratch) {
  const PlanView& plan = network.plan;
  const int32_t first_flat = first_flat_stage(plan);
  int32_t first_with_weights = 0;
  while (!plan.stages[first_with_weights].has_weights()) ++first_with_weights;
  for (int32_t i = plan.num_stages - 1; i >= first_flat && i >= first_with_weights; --i) {
    const Stage& stage = plan.stages[i];
    if (stage.kind == StageKind::kLinear) {
      linear_to_weights(network, stage, num_groups, i == first_with_weights, parameters, gradients, scratch);
    } else {
      for (int32_t g = 0; g < num_groups; ++g) stage_backward(network, stage, g);
    }
  }
  for (int32_t g = 0; g < num_groups; ++g) {
    for (int32_t i = first_flat - 1; i >= first_with_weights; --i) {
      const Stage& stage = plan.stages[i];
      if (stage.kind == StageKind::kConv) {
        conv_to_weights(network, stage, g, gradients);
      } else {
        stage_backward(network, stage, g);
      }
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
