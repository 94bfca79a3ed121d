// Linear layers on weights as the model has them, [out][in]: what training needs, where weights change at every step
// and packing them would cost more than it gains. No torch.
#pragma once

#include "network/cpu/dense_lanes.h"
#include "network/cpu/network_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// out[o][lane] = bias[o] + sum over k of weight[o * output_stride + k * term_stride] * in[k][lane]
struct LinearProduct {
  const float* weight;
  int64_t output_stride, term_stride;
  const float* bias;  // [num_outputs], or none
  int32_t num_outputs, num_terms;
  const float* in;  // [num_terms], in_pitch floats apart
  float* out;       // [num_outputs], out_pitch floats apart
  int64_t in_pitch, out_pitch;
};

template <int32_t kNumRows, int32_t kNumGroups, class Finish>
PYDRIFT_INLINE void multiply_rows(const LinearProduct& product, int32_t first, Finish finish) {
  const int64_t stride = product.output_stride;
  const float *weight = product.weight + first * stride, *in = product.in;
  Vec sum[kNumRows][kNumGroups];
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
    const Vec bias = product.bias == nullptr ? Vec{} : all(product.bias[first + r]);
#pragma GCC unroll 8
    for (int32_t g = 0; g < kNumGroups; ++g) sum[r][g] = bias;
  }
  for (int32_t k = 0; k < product.num_terms; ++k, weight += product.term_stride, in += product.in_pitch) {
    // The next outputs in each cache line of the terms will be needed soon.
    __builtin_prefetch(weight + kCacheLineFloats);
    add_products(weight, stride, [in](int32_t g) __attribute__((always_inline)) { return load(in + g * kLanes); }, sum);
  }
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
#pragma GCC unroll 8
    for (int32_t g = 0; g < kNumGroups; ++g) {
      store(product.out + (first + r) * product.out_pitch + g * kLanes, finish(sum[r][g]));
    }
  }
}

// finish(Vec) -> Vec
template <class Finish>
inline void multiply(const LinearProduct& product, int32_t num_groups, Finish finish) {
  const OutputBlocks blocks(product.num_outputs, kRows);
  for (int32_t i = 0; i < blocks.num_blocks; ++i) {
    const OutputBlock block = blocks[i];
    with_rows(
        block.count, [&](auto rows) __attribute__((always_inline)) {
          with_groups(
              num_groups, [&](auto groups) __attribute__((always_inline)) {
                multiply_rows<rows.kValue, groups.kValue>(product, block.begin, finish);
              });
        });
  }
}

// ---- The gradient in the weights: gradient[o][k] += sum over samples of out_gradient[o][sample] * in[k][sample], with
// k in the lanes, for which the inputs are transposed; so the samples are summed in their order.

// `from` [num_rows][pitch] -> `to` [num_groups * kLanes][kMaxGroups * kLanes]: sample by sample.
inline void transpose_inputs(const float* from, int64_t pitch, int32_t num_rows, int32_t num_groups, float* to) {
  for (int32_t first = 0; first < num_rows; first += kLanes) {
    for (int32_t g = 0; g < num_groups; ++g) {
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int32_t i = 0; i < kLanes; ++i) {
        rows[i] = first + i < num_rows ? load(from + (first + i) * pitch + g * kLanes) : Vec{};
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int32_t i = 0; i < kLanes; ++i) store(to + (g * kLanes + i) * kMaxGroups * kLanes + first, rows[i]);
    }
  }
}

// One chunk of inputs, kNumVectors vectors of them, the last with `last_count` lanes in use.
template <int32_t kNumRows, int32_t kNumVectors>
PYDRIFT_INLINE void add_gradient_rows(const float* samples, const float* factors, int32_t num_samples, float* gradient,
                                      int64_t row, int32_t last_count) {
  Vec sum[kNumRows][kNumVectors] = {};
  for (int32_t s = 0; s < num_samples; ++s, samples += kMaxGroups * kLanes, factors += kNumRows) {
    Vec value[kNumVectors];
#pragma GCC unroll 8
    for (int32_t v = 0; v < kNumVectors; ++v) value[v] = load(samples + v * kLanes);
#pragma GCC unroll 8
    for (int32_t r = 0; r < kNumRows; ++r) {
      const Vec factor = all(factors[r]);
#pragma GCC unroll 8
      for (int32_t v = 0; v < kNumVectors; ++v) sum[r][v] = multiply_add(factor, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int32_t r = 0; r < kNumRows; ++r) {
#pragma GCC unroll 8
    for (int32_t v = 0; v < kNumVectors; ++v) {
      float* to = gradient + r * row + v * kLanes;
      if (v < kNumVectors - 1 || last_count == kLanes) {
        store(to, load(to) + sum[r][v]);
      } else {
        float lanes[kLanes];
        store(lanes, sum[r][v]);
        for (int32_t lane = 0; lane < last_count; ++lane) to[lane] += lanes[lane];
      }
    }
  }
}

// in [num_in], out_gradient [num_out]: `pitch` floats apart, zero in lanes without a sample; gradient
// [num_out][num_in]; bias_gradient [num_out]; scratch [(num_out + kMaxGroups * kLanes) * kMaxGroups * kLanes]
inline void add_linear_gradient(const float* in, int32_t num_in, const float* out_gradient, int32_t num_out,
                                int64_t pitch, int32_t num_groups, float* gradient, float* bias_gradient,
                                float* scratch) {
  constexpr int32_t kChunk = kMaxGroups * kLanes;
  const int32_t num_samples = num_groups * kLanes;
  float *samples = scratch, *factors = scratch + kChunk * kChunk;  // [sample][input]; per block [sample][output]
  const OutputBlocks blocks(num_out, kRows);
  for (int32_t i = 0; i < blocks.num_blocks; ++i) {
    float* to = factors + int64_t{blocks[i].begin} * num_samples;
    for (int32_t o = 0; o < blocks[i].count; ++o) {
      const float* from = out_gradient + (blocks[i].begin + o) * pitch;
      float total = 0.0f;
      for (int32_t s = 0; s < num_samples; ++s) to[s * blocks[i].count + o] = from[s], total += from[s];
      bias_gradient[blocks[i].begin + o] += total;
    }
  }
  for (int32_t first = 0; first < num_in; first += kChunk) {
    const int32_t count = num_in - first < kChunk ? num_in - first : kChunk;
    const int32_t num_vectors = (count + kLanes - 1) / kLanes, last_count = count - (num_vectors - 1) * kLanes;
    transpose_inputs(in + first * pitch, pitch, count, num_groups, samples);
    for (int32_t i = 0; i < blocks.num_blocks; ++i) {
      const OutputBlock block = blocks[i];
      with_rows(
          block.count, [&](auto rows) __attribute__((always_inline)) {
            with_groups(
                num_vectors, [&](auto vectors) __attribute__((always_inline)) {
                  add_gradient_rows<rows.kValue, vectors.kValue>(
                      samples, factors + int64_t{block.begin} * num_samples, num_samples,
                      gradient + int64_t{block.begin} * num_in + first, num_in, last_count);
                });
          });
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
