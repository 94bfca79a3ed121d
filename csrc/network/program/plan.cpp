#include "network/program/plan.h"

#include <algorithm>
#include <array>

#include "common/refuse.h"

namespace pydrift {
namespace {

constexpr int32_t kMinWinogradChannels = 8;  // with fewer, on either side, the transforms cost more than they save
constexpr int64_t kMaxMapFloats = int64_t{1} << 28;  // of one kind of map; also keeps their offsets in 32 bits

int32_t floor_divide(int32_t a, int32_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Rows or columns of zeros before and after a map.
struct Border {
  int32_t before = 0, after = 0;
};

class Planner {
 public:
  Planner(const Program& program, int32_t lanes, int32_t rows, Passes passes, bool winograd)
      : program_(program), passes_(passes), winograd_(winograd) {
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
    if (plan_.group_floats > kMaxMapFloats) refuse_maps();
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
      stage.scatter = passes_ == Passes::kInputGradient && stage.pooled && layer.in.channels <= kMaxScatterInputs &&
                      has_small_kernel(layer.window);
      layers_.push_back(&layer);
      ends_.push_back(&layers[i]);
      plan_.stages.push_back(stage);
    }
  }

  static bool has_small_kernel(const Window& w) {
    return w.kernel_h == kSmallKernel && w.kernel_w == kSmallKernel && w.stride_h == 1 && w.stride_w == 1;
  }

  // Whether the pass with this window from one shape to another runs in Winograd's tiles of 2x2 outputs.
  bool suits_winograd(const Window& w, const LayerShape& from, const LayerShape& to) const {
    return winograd_ && has_small_kernel(w) && std::min(from.channels, to.channels) >= kMinWinogradChannels &&
           std::min(to.height, to.width) >= 2;
  }

  // Whether any stage needs the gradient in what stage `i` reads.
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

  [[noreturn]] static void refuse_maps() {
    refuse("program: its feature maps need more than ", kMaxMapFloats * sizeof(float) >> 20, " MiB a thread");
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
      refuse_maps();
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
    constexpr int32_t kPanelBytes = 28 << 10;  // half an L1 cache
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
    if (stage.pooled || winograd) {
      add_quads(stage.in, w, stage.out, stage.pooled);
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

  // Tiles of 2x2 positions each, which with pooling go to one place. Where the number of rows or columns is odd, the
  // last tiles begin one earlier, and that row or column is computed twice.
  void add_quads(const Map& from, const Window& w, const Map& to, bool pooled) {
    const int32_t scale = pooled ? 2 : 1, height = scale * to.height, width = scale * to.width;
    for (int32_t i = 0; i < height; i += 2) {
      for (int32_t j = 0; j < width; j += 2) {
        Tile tile;
        for (int32_t p = 0; p < kTileSize; ++p) {
          const int32_t y = std::min(i, height - 2) + p / 2, x = std::min(j, width - 2) + p % 2;
          tile.in[p] = from.at(y * w.stride_h, x * w.stride_w);
          tile.out[p] = to.at(y / scale, x / scale);
          tile.index[p] = y / scale * to.width + x / scale;
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
          // In the order of what they read.
          for (int32_t ky = last_tap(w.kernel_h, w.stride_h, py + w.padding_h); ky >= 0; ky -= w.stride_h) {
            for (int32_t kx = last_tap(w.kernel_w, w.stride_w, px + w.padding_w); kx >= 0; kx -= w.stride_w) {
              const int32_t dy = (py + w.padding_h - ky) / w.stride_h, dx = (px + w.padding_w - kx) / w.stride_w;
              offsets.push_back(o * stage.spread.plane + stage.spread.at(dy, dx));
              parameters.push_back(weight + o * layer.in.channels * num_taps + ky * w.kernel_w + kx);
            }
          }
        }
        const bool winograd = suits_winograd(w, layer.out, layer.in);
        Dense dense = winograd ? add_winograd(layer.in.channels, num_taps, offsets, parameters)
                               : add_dense(layer.in.channels, num_taps, offsets, parameters);
        dense.tiles = static_cast<int64_t>(plan_.tiles.size());
        if (winograd) {
          add_quads(stage.spread, w, stage.in_gradient, false);
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
  const bool winograd_;
  Plan plan_;
  std::vector<const Layer*> layers_;  // behind each stage, and
  std::vector<const Layer*> ends_;    // the last layer that it covers
  int64_t widest_patches_ = 0;        // floats of the transformed inputs of the widest Winograd pass
};

}  // namespace

Plan make_plan(const Program& program, int32_t lanes, int32_t rows, Passes passes, bool winograd) {
  return Planner(program, lanes, rows, passes, winograd).run();
}

}  // namespace pydrift
