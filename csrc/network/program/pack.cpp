// The parameters of a model in the order in which the passes of its plan read them.
#include <algorithm>

#include "network/program/plan.h"

namespace pydrift {
namespace {

// kCount outputs of the terms [begin, end): a constant, since this is a good part of the work where samples are few.
template <int32_t kCount>
void pack_block(const int32_t* begin, const int32_t* end, const float* parameters, int64_t output_step, float* to) {
  const float* outputs[kCount];
  for (int32_t o = 0; o < kCount; ++o) outputs[o] = parameters + o * output_step;
  for (const int32_t* term = begin; term != end; ++term) {
    for (int32_t o = 0; o < kCount; ++o) *to++ = outputs[o][*term];
  }
}

// The kernel `taps` (3x3) of one output and channel in Winograd's domain: G taps G^T with
// G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1].
void transform_kernel(const float (&taps)[kSmallTaps], float (&transformed)[kPatchSize]) {
  const auto transform = [](float a, float b, float c, float* to, int32_t step) {
    to[0] = a, to[step] = 0.5f * (a + b + c), to[2 * step] = 0.5f * (a - b + c), to[3 * step] = c;
  };
  float rows[kPatchWidth * kSmallKernel];
  for (int32_t j = 0; j < kSmallKernel; ++j) {
    transform(taps[j], taps[kSmallKernel + j], taps[2 * kSmallKernel + j], rows + j, kSmallKernel);
  }
  for (int32_t i = 0; i < kPatchWidth; ++i) {
    const float* row = rows + i * kSmallKernel;
    transform(row[0], row[1], row[2], transformed + i * kPatchWidth, 1);
  }
}

void pack_winograd(const Plan& plan, const Dense& dense, const float* parameters, float* weights) {
  const int32_t* terms = plan.parameters.data() + dense.terms;
  const int32_t num_channels = dense.num_terms / kSmallTaps;
  const OutputBlocks blocks(dense.num_outputs, plan.rows);
  for (int32_t i = 0; i < blocks.num_blocks; ++i) {
    const OutputBlock block = blocks[i];
    float* to = weights + dense.weight + int64_t{block.begin} * num_channels * kPatchSize;
    for (int32_t c = 0; c < num_channels; ++c) {
      for (int32_t o = 0; o < block.count; ++o) {
        float taps[kSmallTaps], transformed[kPatchSize];
        const float* from = parameters + (block.begin + o) * dense.output_step;
        for (int32_t t = 0; t < kSmallTaps; ++t) taps[t] = from[terms[c * kSmallTaps + t]];
        transform_kernel(taps, transformed);
        for (int32_t e = 0; e < kPatchSize; ++e) to[(e * num_channels + c) * block.count + o] = transformed[e];
      }
    }
  }
}

void pack_dense(const Plan& plan, const Dense& dense, const float* parameters, float* weights) {
  if (dense.winograd) return pack_winograd(plan, dense, parameters, weights);
  static constexpr decltype(&pack_block<1>) kPackBlock[] = {pack_block<1>, pack_block<2>, pack_block<3>,
                                                            pack_block<4>, pack_block<5>, pack_block<6>};
  const int32_t* terms = plan.parameters.data() + dense.terms;
  const OutputBlocks blocks(dense.num_outputs, plan.rows);
  for (int32_t i = 0; i < blocks.num_blocks; ++i) {
    const OutputBlock block = blocks[i];
    const float* from = parameters + block.begin * dense.output_step;
    for (int32_t first = 0; first < dense.num_terms; first += dense.panel) {
      const int32_t end = std::min(first + dense.panel, dense.num_terms);
      float* to = weights + dense.weight + int64_t{first} * dense.num_outputs + block.begin * (end - first);
      kPackBlock[block.count - 1](terms + first, terms + end, from, dense.output_step, to);
    }
  }
}

}  // namespace

void pack_weights(const Plan& plan, const float* parameters, float* weights) {
  for (const Stage& stage : plan.stages) {
    if (stage.forward.num_outputs > 0) pack_dense(plan, stage.forward, parameters, weights);
  }
  for (const Dense& dense : plan.backward) pack_dense(plan, dense, parameters, weights);
  for (const Copy& copy : plan.copies) std::copy_n(parameters + copy.from, copy.count, weights + copy.to);
}

}  // namespace pydrift
