// How a layer program runs with restarts in the lanes of a vector: stages, buffers and gather tables. No torch.
//
// All dense arithmetic, forward and backward, linear and convolution, is one kernel:
//
//     out[o][position] = bias[o] + sum over k of weight[k][o] * in[base(position) + offset[k]]
//
// with one vector of restarts per element. So nothing is shuffled, copied into columns or padded to the width of a
// vector. A plan holds the offsets, the positions and the order in which weights are packed for it.
//
// 3x3 convolutions over many channels run as Winograd's F(2x2, 3x3) instead (network/cpu/winograd_lanes.h): 16
// multiply-adds for 2x2 outputs where the formula takes 36.
#pragma once

#include <cstdint>
#include <vector>

#include "common/portable.h"
#include "network/program/program.h"

namespace pydrift {

inline constexpr int32_t kTileSize = 4;    // positions computed together
inline constexpr int32_t kMaxGroups = 4;   // vectors of restarts that share a pass over the weights of a flat layer
inline constexpr uint8_t kDeadCode = 255;  // of an output whose ReLU let nothing through
inline constexpr int32_t kMaxScatterInputs = 4;
inline constexpr int32_t kGradientOutputs = 4;  // channels whose weight gradients are computed together
inline constexpr int32_t kSmallKernel = 3;      // 3x3: of convolutions that have loops of their own
inline constexpr int32_t kSmallTaps = kSmallKernel * kSmallKernel;
inline constexpr int32_t kPatchWidth = 4;  // of a Winograd tile: the 4x4 inputs that its 2x2 outputs see
inline constexpr int32_t kPatchSize = kPatchWidth * kPatchWidth;

// Vectors from one element of the transformed patches to the next, for kTileSize tiles of all channels. An even number
// would put all elements of a patch into the same few cache sets.
PYDRIFT_HD int32_t patch_pitch(int32_t num_channels) { return num_channels * kTileSize + 1; }

// Where the elements of a feature map lie, counted in floats. Flat maps hold all groups side by side, others one group.
struct Map {
  int32_t channels = 0, height = 0, width = 0;
  bool all_groups = false;
  int64_t base = 0;   // of element (0, 0, 0), within the memory of its kind
  int32_t pitch = 0;  // from one column to the next
  int32_t row = 0;    // from one row to the next
  int32_t plane = 0;  // from one channel to the next

  PYDRIFT_HD int32_t at(int32_t y, int32_t x) const { return y * row + x * pitch; }
  PYDRIFT_HD int32_t plane_size() const { return height * width; }

  PYDRIFT_INLINE bool gapless() const { return row == width * pitch && plane == height * row; }

  // The same elements as one column, for a map without gaps.
  Map flattened() const {
    Map flat = *this;
    flat.channels = channels * height * width, flat.height = flat.width = 1;
    flat.row = flat.plane = pitch;
    return flat;
  }
};

// What a network is run for. This decides which maps and packed weights it needs.
enum class Passes {
  kForward,         // logits only
  kInputGradient,   // and their gradient in the input, with the weights frozen
  kWeightGradient,  // and their gradient in the weights; linear layers then read the parameters as they are
};

struct Tile {
  int32_t in[kTileSize];     // base(position)
  int32_t out[kTileSize];    // where its results go, from the output's plane; with pooling the first for all
  int32_t index[kTileSize];  // the same place counted in elements, for the codes
};

// One pass of the dense kernel.
struct Dense {
  int32_t num_outputs = 0;
  int32_t num_terms = 0;
  int32_t panel = 0;        // terms in a row for which all outputs are computed, so that they stay in the L1 cache
  int64_t weight = 0;       // in the packed weights: panels of terms, each blocks of outputs, each [terms][outputs]
  int64_t bias = -1;        // in the packed weights; -1: none
  int64_t terms = 0;        // in Plan::offsets and Plan::parameters: what each term reads
  int64_t output_step = 0;  // from one output's parameter to the next one's
  int64_t tiles = 0;        // in Plan::tiles; flat passes have none, their positions are the groups
  int32_t num_tiles = 0;
  bool winograd = false;  // each tile 2x2 outputs; weights: blocks of outputs, each [kPatchSize][channels][outputs]
};

enum class StageKind { kLinear, kConv, kAffine, kRelu, kMaxPool, kAvgPool };

struct Stage {
  StageKind kind;
  bool relu = false;     // after it, in the same pass
  bool pooled = false;   // kConv: 2x2 max-pooling in the same pass
  bool scatter = false;  // kConv: its data gradient goes straight from the pooled gradient to the few input channels
  Window window;
  Map in, out;  // activations
  Map in_gradient, out_gradient;
  Map spread;           // kConv: the gradient before ReLU and pooling, with a border of zeros; of kGradientOutputs
                        // channels at a time where no data gradient is wanted
  int64_t codes = -1;   // one byte per output and lane: which position of its window won, or kDeadCode; -1: none
  int64_t weights = 0;  // packed, beside the dense passes. kAffine: scale [C], shift [C]; scatter: [in][out][9]
  Dense forward;
  int32_t first_backward = 0, num_backward = 0;        // in Plan::backward; one pass per residue class of the stride
  int64_t weight_parameters = 0, bias_parameters = 0;  // kConv, kLinear: where the model's own numbers begin

  PYDRIFT_INLINE bool has_weights() const { return kind == StageKind::kConv || kind == StageKind::kLinear; }
};

struct Copy {
  int64_t from, to, count;
};

struct Plan {
  int32_t lanes = 0;  // restarts in one vector
  int32_t rows = 0;   // outputs computed together
  Map input, input_gradient, logits, logits_gradient;
  std::vector<Stage> stages;
  std::vector<Dense> backward;
  std::vector<int32_t> offsets;  // of each term of each pass
  std::vector<Tile> tiles;
  std::vector<int32_t> parameters;  // of each term, for output 0
  std::vector<Copy> copies;         // parameters that are packed as they are
  int64_t num_weights = 0;          // packed
  int64_t group_floats = 0;         // memory of one group's maps; their borders are zero and stay so
  int64_t patches = 0;              // in that of the first group: transformed inputs of the Winograd tiles in work
  int64_t shared_floats = 0;        // memory of the flat maps
  int64_t code_bytes = 0;           // memory of one group's codes
  int32_t num_classes = 0;

  int32_t num_slots() const { return kMaxGroups * lanes; }
};

// A plan as plain arrays, for code that is compiled for one instruction set.
struct PlanView {
  const Stage* stages;
  const Dense* backward;
  const int32_t* offsets;
  const Tile* tiles;
  int32_t num_stages, num_classes;
  int64_t patches;
  Map input, input_gradient, logits, logits_gradient;

  explicit PlanView(const Plan& plan)
      : stages(plan.stages.data()),
        backward(plan.backward.data()),
        offsets(plan.offsets.data()),
        tiles(plan.tiles.data()),
        num_stages(static_cast<int32_t>(plan.stages.size())),
        num_classes(plan.num_classes),
        patches(plan.patches),
        input(plan.input),
        input_gradient(plan.input_gradient),
        logits(plan.logits),
        logits_gradient(plan.logits_gradient) {}
};

struct OutputBlock {
  int32_t begin, count;
};

// The outputs of a dense pass in blocks of at most `rows`, as even as they can be, so that none is nearly empty.
struct OutputBlocks {
  int32_t num_blocks, smallest, num_larger;

  PYDRIFT_INLINE OutputBlocks(int32_t num_outputs, int32_t rows)
      : num_blocks((num_outputs + rows - 1) / rows),
        smallest(num_outputs / num_blocks),
        num_larger(num_outputs % num_blocks) {}

  PYDRIFT_INLINE OutputBlock operator[](int32_t i) const {
    return i < num_larger ? OutputBlock{i * (smallest + 1), smallest + 1}
                          : OutputBlock{i * smallest + num_larger, smallest};
  }
};

// winograd: false for kernels that only know the formula above.
Plan make_plan(const Program& program, int32_t lanes, int32_t rows, Passes passes, bool winograd);

// The parameters of one model, [Program::num_parameters], in the order of the plan: weights [Plan::num_weights].
// In pack.cpp.
void pack_weights(const Plan& plan, const float* parameters, float* weights);

}  // namespace pydrift
