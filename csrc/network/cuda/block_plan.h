// The plan of a network on the GPU: what a block of threads computes, pass after pass, as plain arrays. No torch.
//
// A block has `num_slots` samples. Every number of a network exists once per slot, with the slots innermost. So a
// "column" of work is a pair (position, slot), and elementwise work needs no exchange between threads. Offsets count
// floats and are already multiplied by num_slots; offset + slot is an element.
#pragma once

#include <cstdint>
#include <vector>

#include "common/portable.h"
#include "network/program/arithmetic.h"

namespace pydrift {

inline constexpr int32_t kMaxBlockThreads = 512;
inline constexpr int32_t kOutputsPerTile = 8;  // per thread; packed weights are padded to a multiple of it

// A piece of the memory of a block: in shared memory, or in its part of the workspace.
struct Place {
  int64_t offset = 0;
  bool shared = false;
};

// Planes with a border of zeros. Neighbouring rows share their border columns, neighbouring channels their border rows.
struct Plane {
  Place place;
  int32_t channels = 0, height = 0, width = 0;
  int32_t lead = 0;  // offset of the first pixel
  int32_t channel_pitch = 0, row_pitch = 0, column_pitch = 0;
};

enum class PassKind : int32_t { kProduct, kScale, kMaxPool, kAvgPool, kMaxPoolBack, kAvgPoolBack };

// The tiles of a tensor core: 16 outputs by 8 columns, 8 words of products deep. A word of bfloat16 is two numbers.
inline constexpr int32_t kFragmentRows = 16, kFragmentColumns = 8, kFragmentWords = 8, kMaxFragmentDepth = 16;

// Outputs of a piece of a linear layer.
inline constexpr int32_t kFlatRows = 32;

PYDRIFT_HD constexpr int32_t numbers_per_word(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kBfloat16 ? 2 : 1;
}

PYDRIFT_HD constexpr int32_t fragment_depth(Arithmetic arithmetic) {
  return kFragmentWords * numbers_per_word(arithmetic);
}

// How a result is stored.
enum class SinkKind : int32_t {
  kStore,
  kRelu,
  kReluPool,  // of the four results of a 2x2 window the first largest, or 0; which one it was goes to the mask
  kReluBack,  // a gradient: 0 where the activation is not positive
};

inline constexpr uint8_t kDeadWindow = 4;  // mask of a window whose maximum is not positive

// Result (output, position) goes to out_rows[output] + out_columns[position]; likewise for `aux`.
struct Sink {
  SinkKind kind = SinkKind::kStore;
  Place out;
  Place aux;  // kReluBack: the activation; kReluPool: the mask, in bytes, if the backward pass needs one
  bool has_mask = false;
  int32_t out_rows = 0, out_columns = 0, aux_rows = 0, aux_columns = 0;  // where the tables begin
};

// kProduct: result[output, position] = bias[output]
//                                    + sum over k of weights[k, output] * in[in_rows[k] + in_columns[position]];
//   with a mask, an element of `in` whose mask is not in_parts[k] counts as 0.
// kScale: result[output, position] = weights[output] * in[in_rows[output] + in_columns[position]] + bias[output].
// Pooling: between the planes `from` and `to` (the smaller one), of values forward and of gradients back.
struct Pass {
  PassKind kind = PassKind::kProduct;
  Arithmetic arithmetic = Arithmetic::kFma;  // of a kProduct; the order of its weights depends on it
  bool ends_phase = true;                    // false: the next pass does not depend on this one
  int32_t num_outputs = 0, num_positions = 0;
  int32_t padded_outputs = 0;  // row length of the weights
  int32_t depth = 0;           // range of k
  bool is_flat = false;        // a linear layer: one position
  int32_t split_depth = 0;     // if flat: sums over ranges of k this long are added up in a second phase
  int32_t in_rows = 0, in_columns = 0, in_parts = -1;
  int32_t step_right = 0, step_down = 0;  // kReluPool: in `in`, between the four results of a window
  int64_t weights = 0, bias = -1;         // in the packed parameters of a model; no bias: -1
  int64_t weight_source = 0;              // kProduct: parameter of (k, output) is
  int32_t source_rows = 0;                //   weight_source + source_rows[k] + output * source_stride
  int32_t source_stride = 0;
  int64_t bias_source = -1;
  Place in;
  Place mask;      // bytes, laid out as `in`
  Place partial;   // [splits, padded_outputs, slots]
  Place resident;  // if flat and shared: the weights of this block's pieces, see block_flat.h
  Sink sink;
  Plane from, to;
  Place winners;  // bytes [C, H', W', slots]: position of the maximum within its window, if the backward pass needs it
  bool has_winners = false;
  int32_t kernel_h = 0, kernel_w = 0, stride_h = 0, stride_w = 0, padding_h = 0, padding_w = 0;

  PYDRIFT_HD int32_t num_steps() const { return (depth - 1) / fragment_depth(arithmetic) + 1; }

  PYDRIFT_HD int32_t num_splits() const { return (depth - 1) / split_depth + 1; }
  PYDRIFT_HD int32_t num_output_tiles() const { return (num_outputs - 1) / kFlatRows + 1; }  // of a linear layer

  // Words of the weights of a linear layer's piece: [split_depth, kFlatRows], or fragments
  // [2 tiles, steps, 32 lanes, 4].
  PYDRIFT_HD int64_t words_per_piece() const { return int64_t{split_depth} / numbers_per_word(arithmetic) * kFlatRows; }

  // Words of weights, with the zeros that pad them. Of a linear layer: [splits, output tiles, words_per_piece]; else
  // [depth, padded_outputs], or fragments [tiles, steps, 32 lanes, 4].
  PYDRIFT_HD int64_t num_words() const {
    if (is_flat) return num_splits() * num_output_tiles() * words_per_piece();
    return (arithmetic == Arithmetic::kFma ? depth : int64_t{num_steps()} * kFragmentWords) * padded_outputs;
  }
};

// Memory that a kernel needs beside the planes of the network.
struct BlockRequest {
  Place* place;
  int64_t size;              // floats
  double reads;              // per float and step, roughly: what is read most goes to shared memory
  bool only_shared = false;  // if it does not fit there, the place stays as it is
};

// What the planner makes. input_gradient and seed_sink are set if there is a backward pass.
struct BlockPlan {
  std::vector<Pass> passes;  // forward, then back
  std::vector<int32_t> tables;
  int64_t packed_size = 0;                      // floats per model
  int64_t shared_size = 0, workspace_size = 0;  // floats per block
  int32_t num_slots = 0, num_forward = 0, num_classes = 0, logit_rows = 0;
  Place logits;
  Plane input;
  Plane input_gradient;
  Sink seed_sink;  // of the gradient of the logits

  int32_t num_passes() const { return static_cast<int32_t>(passes.size()); }
};

// A network in the memory of the device.
struct BlockNetwork {
  const Pass* passes;  // [num_forward + num_back]
  const int32_t* tables;
  const float* parameters;  // [M, num_parameters]
  float* packed;            // [M, packed_size]
  int64_t num_parameters, packed_size;
  int32_t num_models, num_slots, num_forward, num_back, num_classes, logit_rows;
};

inline BlockNetwork make_network(const BlockPlan& plan, const float* parameters, int64_t num_models,
                                 int64_t num_parameters) {
  BlockNetwork made{};
  made.parameters = parameters;
  made.num_parameters = num_parameters, made.packed_size = plan.packed_size;
  made.num_models = static_cast<int32_t>(num_models), made.num_slots = plan.num_slots;
  made.num_forward = plan.num_forward, made.num_back = plan.num_passes() - plan.num_forward;
  made.num_classes = plan.num_classes, made.logit_rows = plan.logit_rows;
  return made;
}

}  // namespace pydrift
