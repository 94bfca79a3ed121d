#include "arch/plan.h"

#include <algorithm>
#include <array>

#include "common/refuse.h"

namespace pydrift {
namespace {

constexpr int32_t kSmallKernel = 3;  // of the convolutions that have a form of their own
constexpr int32_t kSmallTaps = kSmallKernel * kSmallKernel;
constexpr int32_t kMinWinogradChannels = 8;    // with fewer, on either side, the transforms cost more than they save
constexpr int64_t kMaxMapFloats = int64_t{1} << 28;  // of one kind of map; also keeps their offsets in 32 bits

int32_t floor_divide(int32_t a, int32_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Rows or columns of zeros before and after a map.
struct Border {
  int32_t before = 0, after = 0;
};

class Planner {
 public:
  Planner(const Program& program, int32_t lanes, int32_t rows, Passes passes) : program_(program), passes_(passes) {
    plan_.lanes = lanes;
    plan_.rows = rows;
    plan_.num_classes = program.num_classes();
  }

  Plan run() {
    fuse();
    lay_out();
    for (size_t i = 0; i < plan_.stages.size(); ++i) fill(plan_.stages[i], *layers_[i], needs_gradient(i));
    plan_.patches = plan_.group_floats;
    plan_.group_floats += widest_patches_;
    return std::move(plan_);
  }

 private:
  // One stage per layer that computes; ReLU and 2x2 max-pooling join the convolution or linear layer before them.
  void fuse() {
    const std::vector<Layer>& layers = program_.layers;
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      if (layer.kind == LayerKind::kFlatten) continue;
      Stage stage;
      stage.kind = kind_of(layer.kind);
      stage.window = layer.window;
      if (stage.kind == StageKind::kConv || stage.kind == StageKind::kLinear) {
        for (; i + 1 < layers.size(); ++i) {
          const Layer& next = layers[i + 1];
          if (next.kind == LayerKind::kRelu) {
            stage.relu = true;
          } else if (stage.kind == StageKind::kConv && !stage.pooled && is_quad_pooling(next)) {
            stage.pooled = true;
          } else {
            break;
          }
        }
      }
      stage.weight_parameters = layer.weight, stage.bias_parameters = layer.bias;
      stage.scatter = passes_ == Passes::kInputGradient && stage.pooled &&
                      layer.in.channels <= kMaxScatterInputs && has_small_kernel(layer.window);
      layers_.push_back(&layer);
      ends_.push_back(&layers[i]);
      plan_.stages.push_back(stage);
    }
  }

  static bool has_small_kernel(const Window& w) {
    return w.kernel_h == kSmallKernel && w.kernel_w == kSmallKernel && w.stride_h == 1 && w.stride_w == 1;
  }

  // Whether the pass with this window from one shape to another runs in Winograd's tiles of 2x2 outputs.
  static bool suits_winograd(const Window& w, const LayerShape& from, const LayerShape& to) {
    return has_small_kernel(w) && std::min(from.channels, to.channels) >= kMinWinogradChannels &&
           std::min(to.height, to.width) >= 2;
  }

  // Whether the gradient in what stage `i` reads is of use to anyone.
  bool needs_gradient(size_t i) const {
    if (passes_ != Passes::kWeightGradient) return passes_ == Passes::kInputGradient;
    for (size_t before = 0; before < i; ++before) {
      if (plan_.stages[before].has_weights()) return true;
    }
    return false;
  }

  static StageKind kind_of(LayerKind kind) {
    switch (kind) {
      case LayerKind::kLinear:
        return StageKind::kLinear;
      case LayerKind::kConv2d:
        return StageKind::kConv;
      case LayerKind::kAffine:
        return StageKind::kAffine;
      case LayerKind::kMaxPool2d:
        return StageKind::kMaxPool;
      case LayerKind::kAvgPool2d:
        return StageKind::kAvgPool;
      default:
        return StageKind::kRelu;
    }
  }

  // The maps between the stages. What a flat layer reads lies side by side for all groups.
  void lay_out() {
    std::vector<Stage>& stages = plan_.stages;
    LayerShape shape = program_.input;
    for (size_t i = 0; i <= stages.size(); ++i) {
      const bool flat = i == stages.size() || layers_[i]->in.flat;
      Border rows, columns;
      if (!flat && stages[i].kind == StageKind::kConv) {
        const Window& w = stages[i].window;
        const LayerShape& out = layers_[i]->out;
        rows = {w.padding_h, std::max(0, (out.height - 1) * w.stride_h + w.kernel_h - w.padding_h - shape.height)};
        columns = {w.padding_w, std::max(0, (out.width - 1) * w.stride_w + w.kernel_w - w.padding_w - shape.width)};
      }
      const Map map = add_map(shape, flat, rows, columns);
      const Map gradient = needs_gradient(i) ? add_map(shape, flat, {}, {}) : Map{};
      if (i > 0) stages[i - 1].out = map, stages[i - 1].out_gradient = gradient;
      if (i < stages.size()) {
        stages[i].in = flat ? map.flattened() : map;
        stages[i].in_gradient = flat ? gradient.flattened() : gradient;
        shape = ends_[i]->out;
      }
      if (i == 0) plan_.input = map, plan_.input_gradient = gradient;
      if (i == stages.size()) plan_.logits = map.flattened(), plan_.logits_gradient = gradient.flattened();
    }
  }

  Map add_map(const LayerShape& shape, bool flat, Border rows, Border columns) {
    Map map;
    map.channels = shape.channels, map.height = shape.height, map.width = shape.width;
    map.all_groups = flat;
    map.pitch = flat ? kMaxGroups * plan_.lanes : plan_.lanes;
    const int64_t row = (int64_t{shape.width} + columns.before + columns.after) * map.pitch;
    const int64_t plane = (int64_t{shape.height} + rows.before + rows.after + 1) * row;
    int64_t& end = flat ? plan_.shared_floats : plan_.group_floats;
    // In two steps: the product of all three could exceed 64 bits.
    if (plane > kMaxMapFloats || plane * shape.channels + end > kMaxMapFloats) {
      refuse("program: its feature maps need more than ", kMaxMapFloats * sizeof(float) >> 20, " MiB a thread");
    }
    map.row = static_cast<int32_t>(row);
    map.plane = (shape.height + rows.before + rows.after) * map.row;
    // An even number of vectors from plane to plane would put all channels of a pixel into the same few cache sets.
    if (!flat && map.plane / map.pitch % 2 == 0) map.plane += map.pitch;
    map.base = end + rows.before * map.row + columns.before * map.pitch;
    end += int64_t{map.plane} * shape.channels;
    return map;
  }

  void fill(Stage& stage, const Layer& layer, bool needs_gradient) {
    switch (stage.kind) {
      case StageKind::kLinear:
        if (passes_ != Passes::kWeightGradient) fill_linear(stage, layer, needs_gradient);
        break;
      case StageKind::kConv:
        fill_conv(stage, layer, needs_gradient);
        break;
      case StageKind::kAffine:
        stage.weights = add_copy(layer.weight, 2 * layer.in.channels);
        break;
      case StageKind::kRelu:
      case StageKind::kMaxPool:
        stage.codes = add_codes(stage.out);
        break;
      case StageKind::kAvgPool:
        break;
    }
  }

  int64_t add_codes(const Map& map) {
    if (passes_ == Passes::kForward) return -1;
    const int64_t begin = plan_.code_bytes;
    plan_.code_bytes += int64_t{map.channels} * map.plane_size() * plan_.lanes;
    return begin;
  }

  int64_t add_copy(int64_t begin, int64_t count) {
    plan_.copies.push_back({begin, plan_.num_weights, count});
    plan_.num_weights += count;
    return plan_.copies.back().to;
  }

  // A pass in which output o of term k has the parameter parameters[k] + o * output_step.
  Dense add_dense(int32_t num_outputs, int64_t output_step, const std::vector<int32_t>& offsets,
                  const std::vector<int32_t>& parameters) {
    Dense dense;
    dense.num_outputs = num_outputs;
    dense.num_terms = dense.panel = static_cast<int32_t>(offsets.size());
    dense.terms = static_cast<int64_t>(plan_.offsets.size());
    dense.output_step = output_step;
    dense.weight = plan_.num_weights;
    plan_.offsets.insert(plan_.offsets.end(), offsets.begin(), offsets.end());
    plan_.parameters.insert(plan_.parameters.end(), parameters.begin(), parameters.end());
    plan_.num_weights += int64_t{num_outputs} * dense.num_terms;
    return dense;
  }

  // As add_dense, whose terms are the nine taps of each channel, row by row.
  Dense add_winograd(int32_t num_outputs, int64_t output_step, const std::vector<int32_t>& offsets,
                     const std::vector<int32_t>& parameters) {
    Dense dense = add_dense(num_outputs, output_step, offsets, parameters);
    const int32_t num_channels = dense.num_terms / kSmallTaps;
    dense.winograd = true;
    plan_.num_weights = dense.weight + int64_t{num_outputs} * num_channels * kPatchSize;
    widest_patches_ = std::max(widest_patches_, int64_t{kPatchSize} * patch_pitch(num_channels) * plan_.lanes);
    return dense;
  }

  // As add_dense, for a pass over a flat map; its terms are what all groups have of one element.
  Dense add_flat(int32_t num_outputs, int64_t output_step, const std::vector<int32_t>& offsets,
                 const std::vector<int32_t>& parameters) {
    constexpr int32_t kPanelBytes = 28 << 10;  // half a first cache
    const int32_t most = kPanelBytes / (plan_.num_slots() * static_cast<int32_t>(sizeof(float)));
    Dense dense = add_dense(num_outputs, output_step, offsets, parameters);
    const int32_t num_panels = (dense.num_terms + most - 1) / most;
    dense.panel = (dense.num_terms + num_panels - 1) / num_panels;
    return dense;
  }

  void add_backward(Stage& stage, const Dense& dense) {
    if (stage.num_backward == 0) stage.first_backward = static_cast<int32_t>(plan_.backward.size());
    plan_.backward.push_back(dense);
    stage.num_backward += 1;
  }

  void fill_linear(Stage& stage, const Layer& layer, bool needs_gradient) {
    const int32_t num_in = layer.in.channels, num_out = layer.out.channels, pitch = stage.in.pitch;
    const int32_t weight = static_cast<int32_t>(layer.weight);
    std::vector<int32_t> offsets(num_in), parameters(num_in);
    for (int32_t k = 0; k < num_in; ++k) offsets[k] = k * pitch, parameters[k] = weight + k;
    stage.forward = add_flat(num_out, num_in, offsets, parameters);
    stage.forward.bias = add_copy(layer.bias, num_out);
    if (!needs_gradient) return;
    offsets.resize(num_out), parameters.resize(num_out);
    for (int32_t k = 0; k < num_out; ++k) offsets[k] = k * pitch, parameters[k] = weight + k * num_in;
    add_backward(stage, add_flat(num_in, 1, offsets, parameters));
  }

  void fill_conv(Stage& stage, const Layer& layer, bool needs_gradient) {
    const Window& w = stage.window;
    const int32_t weight = static_cast<int32_t>(layer.weight);
    std::vector<int32_t> offsets, parameters;
    for (int32_t c = 0; c < layer.in.channels; ++c) {
      for (int32_t ky = 0; ky < w.kernel_h; ++ky) {
        for (int32_t kx = 0; kx < w.kernel_w; ++kx) {
          offsets.push_back(c * stage.in.plane + stage.in.at(ky - w.padding_h, kx - w.padding_w));
          parameters.push_back(weight + (c * w.kernel_h + ky) * w.kernel_w + kx);
        }
      }
    }
    const bool winograd = suits_winograd(w, layer.in, layer.out);
    const int64_t output_step = int64_t{layer.in.channels} * w.size();
    stage.forward = winograd ? add_winograd(layer.out.channels, output_step, offsets, parameters)
                             : add_dense(layer.out.channels, output_step, offsets, parameters);
    stage.forward.bias = add_copy(layer.bias, layer.out.channels);
    stage.forward.tiles = static_cast<int64_t>(plan_.tiles.size());
    if (stage.pooled) {
      add_pooled_tiles(stage);
    } else if (winograd) {
      add_quads(stage.in, stage.out);
    } else {
      add_tiles(stage.in, w.stride_h, w.stride_w, stage.out, {0, 1, layer.out.height}, {0, 1, layer.out.width});
    }
    stage.forward.num_tiles = static_cast<int32_t>(plan_.tiles.size() - stage.forward.tiles);
    if (stage.relu || stage.pooled) stage.codes = add_codes(stage.out);
    if (stage.scatter) {
      stage.weights = add_scatter_weights(layer);
    } else if (needs_gradient) {
      fill_conv_backward(stage, layer);
    } else if (passes_ == Passes::kWeightGradient) {
      LayerShape band = layer.out;  // the gradient of a few channels at a time
      band.channels = std::min(band.channels, kGradientOutputs);
      stage.spread = add_map(band, false, {}, {});
    }
  }

  // [in][out][kernel_h * kernel_w]
  int64_t add_scatter_weights(const Layer& layer) {
    const int64_t packed = plan_.num_weights;
    const int32_t num_taps = layer.window.size();
    for (int32_t c = 0; c < layer.in.channels; ++c) {
      for (int32_t o = 0; o < layer.out.channels; ++o) {
        add_copy(layer.weight + (int64_t{o} * layer.in.channels + c) * num_taps, num_taps);
      }
    }
    return packed;
  }

  // Every `step`-th row or column, from `begin`, below `end`.
  struct Range {
    int32_t begin, step, end;
  };

  // Tiles over the positions of `to` in `rows` x `columns`; position number (i, j) of them reads `from` at
  // (i * stride_h, j * stride_w). In blocks of 2x2, which share most of what they read.
  void add_tiles(const Map& from, int32_t stride_h, int32_t stride_w, const Map& to, Range rows, Range columns) {
    std::vector<std::array<int32_t, 3>> positions;
    const auto add = [&](int32_t i, int32_t j) {
      const int32_t y = rows.begin + i * rows.step, x = columns.begin + j * columns.step;
      if (y < rows.end && x < columns.end) {
        positions.push_back({from.at(i * stride_h, j * stride_w), to.at(y, x), y * to.width + x});
      }
    };
    for (int32_t i = 0; rows.begin + i * rows.step < rows.end; i += 2) {
      for (int32_t j = 0; columns.begin + j * columns.step < columns.end; j += 2) {
        add(i, j), add(i, j + 1), add(i + 1, j), add(i + 1, j + 1);
      }
    }
    for (size_t first = 0; first < positions.size(); first += kTileSize) {
      Tile tile;
      for (int32_t p = 0; p < kTileSize; ++p) {  // the last tile repeats its last position
        const auto& position = positions[std::min(first + p, positions.size() - 1)];
        tile.in[p] = position[0], tile.out[p] = position[1], tile.index[p] = position[2];
      }
      plan_.tiles.push_back(tile);
    }
  }

  // Tiles of 2x2 positions each. Where their number is odd, the last row or column is computed twice.
  void add_quads(const Map& from, const Map& to) {
    for (int32_t i = 0; i < to.height; i += 2) {
      for (int32_t j = 0; j < to.width; j += 2) {
        Tile tile;
        for (int32_t p = 0; p < kTileSize; ++p) {
          const int32_t y = std::min(i, to.height - 2) + p / 2, x = std::min(j, to.width - 2) + p % 2;
          tile.in[p] = from.at(y, x), tile.out[p] = to.at(y, x), tile.index[p] = y * to.width + x;
        }
        plan_.tiles.push_back(tile);
      }
    }
  }

  void add_pooled_tiles(const Stage& stage) {
    const Window& w = stage.window;
    for (int32_t y = 0; y < stage.out.height; ++y) {
      for (int32_t x = 0; x < stage.out.width; ++x) {
        Tile tile;
        for (int32_t p = 0; p < kTileSize; ++p) {
          tile.in[p] = stage.in.at((2 * y + p / 2) * w.stride_h, (2 * x + p % 2) * w.stride_w);
          tile.out[p] = stage.out.at(y, x);
          tile.index[p] = y * stage.out.width + x;
        }
        plan_.tiles.push_back(tile);
      }
    }
  }

  // dx[y][x] = sum over taps of w[ky][kx] * dy[(y + padding - ky) / stride][...], where that divides: the positions
  // whose (y, x) leave the same residue use the same taps.
  void fill_conv_backward(Stage& stage, const Layer& layer) {
    const Window& w = stage.window;
    const int32_t num_taps = w.size(), weight = static_cast<int32_t>(layer.weight);
    const auto border = [](int32_t kernel, int32_t stride, int32_t padding, int32_t in, int32_t out) {
      const int32_t first = floor_divide(padding - (kernel - 1), stride), last = (in - 1 + padding) / stride;
      return Border{std::max(0, -first), std::max(0, last - (out - 1))};
    };
    const LayerShape& out = layer.out;
    stage.spread = add_map(out, false, border(w.kernel_h, w.stride_h, w.padding_h, layer.in.height, out.height),
                           border(w.kernel_w, w.stride_w, w.padding_w, layer.in.width, out.width));
    for (int32_t py = 0; py < std::min(w.stride_h, layer.in.height); ++py) {
      for (int32_t px = 0; px < std::min(w.stride_w, layer.in.width); ++px) {
        std::vector<int32_t> offsets, parameters;
        for (int32_t o = 0; o < out.channels; ++o) {
          for (int32_t ky = w.kernel_h - 1; ky >= 0; --ky) {  // in the order of what they read
            for (int32_t kx = w.kernel_w - 1; kx >= 0; --kx) {
              const int32_t dy = py + w.padding_h - ky, dx = px + w.padding_w - kx;
              if (dy % w.stride_h != 0 || dx % w.stride_w != 0) continue;
              offsets.push_back(o * stage.spread.plane + stage.spread.at(dy / w.stride_h, dx / w.stride_w));
              parameters.push_back(weight + o * layer.in.channels * num_taps + ky * w.kernel_w + kx);
            }
          }
        }
        const bool winograd = suits_winograd(w, layer.out, layer.in);
        Dense dense = winograd ? add_winograd(layer.in.channels, num_taps, offsets, parameters)
                               : add_dense(layer.in.channels, num_taps, offsets, parameters);
        dense.tiles = static_cast<int64_t>(plan_.tiles.size());
        if (winograd) {
          add_quads(stage.spread, stage.in_gradient);
        } else {
          add_tiles(stage.spread, 1, 1, stage.in_gradient, {py, w.stride_h, layer.in.height},
                    {px, w.stride_w, layer.in.width});
        }
        dense.num_tiles = static_cast<int32_t>(plan_.tiles.size() - dense.tiles);
        add_backward(stage, dense);
      }
    }
  }

  const Program& program_;
  const Passes passes_;
  Plan plan_;
  std::vector<const Layer*> layers_;  // behind each stage, and
  std::vector<const Layer*> ends_;    // the last layer that it covers
  int64_t widest_patches_ = 0;        // floats of the transformed inputs of the widest Winograd pass
};

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
  float rows[4 * kSmallKernel];
  for (int32_t j = 0; j < kSmallKernel; ++j) {
    transform(taps[j], taps[kSmallKernel + j], taps[2 * kSmallKernel + j], rows + j, kSmallKernel);
  }
  for (int32_t i = 0; i < 4; ++i) {
    const float* row = rows + i * kSmallKernel;
    transform(row[0], row[1], row[2], transformed + i * 4, 1);
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

Plan make_plan(const Program& program, int32_t lanes, int32_t rows, Passes passes) {
  return Planner(program, lanes, rows, passes).run();
}

void pack_weights(const Plan& plan, const float* parameters, float* weights) {
  for (const Stage& stage : plan.stages) {
    if (stage.forward.num_outputs > 0) pack_dense(plan, stage.forward, parameters, weights);
  }
  for (const Dense& dense : plan.backward) pack_dense(plan, dense, parameters, weights);
  for (const Copy& copy : plan.copies) std::copy_n(parameters + copy.from, copy.count, weights + copy.to);
}

}  // namespace pydrift
