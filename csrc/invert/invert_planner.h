// Makes the plan of a fused inversion on the GPU from the program of a network. Host code without torch.
#pragma once

#include <algorithm>
#include <deque>
#include <limits>
#include <vector>

#include "arch/program.h"
#include "common/refuse.h"
#include "invert/ascent_update_math.h"
#include "invert/invert_plan.h"

namespace pydrift {

struct InvertPlan {
  std::vector<Pass> passes;  // forward, then back
  std::vector<int32_t> tables;
  int64_t packed_size = 0;  // floats per model
  int64_t shared_size = 0, workspace_size = 0;  // floats per team
  int32_t num_slots = 0, num_forward = 0, num_classes = 0, logit_rows = 0;
  Place slots, image, first_moment, second_moment, logits;
  Plane input, input_gradient;
  Sink seed_sink;
};

class InvertPlanner {
 public:
  // shared_limit: floats of shared memory that a team may use.
  InvertPlanner(const Program& program, int32_t num_slots, int64_t shared_limit) : program_(program) {
    plan_.num_slots = num_slots;
    plan_.num_classes = program.num_classes();
    make_stages();
    make_memory(shared_limit);
    for (const Stage& stage : stages_) add_forward(stage);
    plan_.num_forward = static_cast<int32_t>(plan_.passes.size());
    for (size_t i = stages_.size(); i-- > 0;) add_back(stages_[i]);
    const Value& last = values_.back();
    plan_.input = values_[0].activation;
    plan_.input_gradient = values_[0].gradient;
    plan_.logits = last.activation.place;
    plan_.logit_rows = rows(last.activation, last, true);
    plan_.seed_sink = back_sink(last, true);
  }

  InvertPlan take() { return std::move(plan_); }

 private:
  // What a stage makes: after its ReLU and its 2x2 pooling, if it has them; the gradient is before them.
  struct Value {
    int32_t channels = 0, height = 1, width = 1;
    bool relu = false, pooled = false;
    Plane activation, gradient, mask;

    int32_t window() const { return pooled ? 2 : 1; }
  };

  struct Stage {
    const Layer* layer;  // a ReLU that could not be fused into the layer before it is a stage that scales by 1
    Value *in, *out;
    Place partial, partial_back, winners;
  };

  struct Border {
    int32_t rows = 0, columns = 0;

    void include(int32_t y_first, int32_t y_last, int32_t x_first, int32_t x_last, int32_t height, int32_t width) {
      rows = std::max({rows, -y_first, y_last - (height - 1)});
      columns = std::max({columns, -x_first, x_last - (width - 1)});
    }
  };

  struct Request {
    Place* place;
    int64_t size;  // floats
    double reads;  // of each float in a step, roughly: what is read most goes to shared memory
  };

  // ---- Stages

  void make_stages() {
    const std::vector<Layer>& layers = program_.layers;
    values_.push_back({program_.input.channels, program_.input.height, program_.input.width});
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      if (layer.kind == LayerKind::kFlatten) continue;
      Value* in = &values_.back();
      values_.push_back({layer.out.channels, layer.out.height, layer.out.width});
      Value& out = values_.back();
      if (layer.kind == LayerKind::kRelu) {
        out.relu = true;
      } else if (i + 1 < layers.size() && layers[i + 1].kind == LayerKind::kRelu) {
        out.relu = true;
        ++i;
        if (layer.kind == LayerKind::kConv2d && i + 1 < layers.size() && is_simple_pool(layers[i + 1])) {
          out.pooled = true;
          out.height /= 2, out.width /= 2;
          ++i;
        }
      }
      stages_.push_back({&layer, in, &out, {}, {}, {}});
    }
    if (stages_.empty()) refuse("invert: the program has no layer that computes anything");
  }

  static bool is_simple_pool(const Layer& layer) {
    const Window& w = layer.window;
    return layer.kind == LayerKind::kMaxPool2d && w.kernel_h == 2 && w.kernel_w == 2 && w.stride_h == 2 &&
           w.stride_w == 2 && w.padding_h == 0 && w.padding_w == 0;
  }

  // ---- Memory

  void make_memory(int64_t shared_limit) {
    std::vector<Request> requests;
    const int64_t slots = plan_.num_slots, image_size = program_.input.size() * slots;
    requests.push_back({&plan_.slots, static_cast<int64_t>((sizeof(Slot) * slots + 3) / 4), 1000.0});
    requests.push_back({&plan_.image, image_size, 8.0});
    requests.push_back({&plan_.first_moment, image_size, 3.0});
    requests.push_back({&plan_.second_moment, image_size, 3.0});
    std::vector<double> reads(values_.size(), 1.0), reads_back(values_.size(), 1.0);
    std::vector<Border> borders(values_.size()), borders_back(values_.size());
    for (size_t i = 0; i < stages_.size(); ++i) {
      Stage& stage = stages_[i];
      const Layer& layer = *stage.layer;
      if (layer.kind == LayerKind::kConv2d) {
        borders[i] = conv_border(layer), borders_back[i + 1] = conv_border_back(layer);
        const double taps = layer.window.size();
        reads[i] += taps * num_tiles(layer.out.channels) / (layer.window.stride_h * layer.window.stride_w);
        reads_back[i + 1] += taps * num_tiles(layer.in.channels);
      } else if (layer.kind == LayerKind::kLinear) {
        reads[i] += num_tiles(layer.out.channels), reads_back[i + 1] += num_tiles(layer.in.channels);
        requests.push_back({&stage.partial, partial_size(layer.in.channels, layer.out.channels), 2.0});
        requests.push_back({&stage.partial_back, partial_size(layer.out.channels, layer.in.channels), 2.0});
      } else if (layer.kind == LayerKind::kMaxPool2d) {
        requests.push_back({&stage.winners, (layer.out.size() * slots + 3) / 4, 4.0});
      }
    }
    for (size_t i = 0; i < values_.size(); ++i) {
      Value& v = values_[i];
      const LayerShape raw = i == 0 ? program_.input : stages_[i - 1].layer->out;
      requests.push_back({&v.activation.place, lay_out(v.activation, v.channels, v.height, v.width, borders[i]),
                          reads[i]});
      requests.push_back({&v.gradient.place, lay_out(v.gradient, raw.channels, raw.height, raw.width, borders_back[i]),
                          reads_back[i]});
      if (v.pooled) {
        const int64_t size = lay_out(v.mask, v.channels, v.height, v.width, {});
        requests.push_back({&v.mask.place, (size + 3) / 4, 4.0});
      }
    }
    std::stable_sort(requests.begin(), requests.end(),
                     [](const Request& a, const Request& b) { return a.reads > b.reads; });
    for (const Request& request : requests) {
      const int64_t size = (request.size + 3) / 4 * 4;  // 16 bytes
      const bool shared = plan_.shared_size + size <= shared_limit;
      int64_t& used = shared ? plan_.shared_size : plan_.workspace_size;
      *request.place = {used, shared};
      used += size;
    }
  }

  static double num_tiles(int32_t outputs) { return (outputs + kOutputsPerTile - 1) / kOutputsPerTile; }

  static int32_t padded(int32_t outputs) { return (outputs + kOutputsPerTile - 1) / kOutputsPerTile * kOutputsPerTile; }

  // How a long sum is cut: by its length alone, so that a result depends on nothing else.
  static int32_t split_depth(int32_t depth) {
    constexpr int32_t kMaxSplits = 16, kMinSplitDepth = 32;
    return std::max((depth + kMaxSplits - 1) / kMaxSplits, kMinSplitDepth);
  }

  int64_t partial_size(int32_t depth, int32_t outputs) const {
    const int32_t length = split_depth(depth);
    return depth > length ? int64_t{(depth + length - 1) / length} * padded(outputs) * plan_.num_slots : 0;
  }

  static Border conv_border(const Layer& layer) {
    const Window& w = layer.window;
    Border border;
    border.include(-w.padding_h, (layer.out.height - 1) * w.stride_h - w.padding_h + w.kernel_h - 1, -w.padding_w,
                   (layer.out.width - 1) * w.stride_w - w.padding_w + w.kernel_w - 1, layer.in.height, layer.in.width);
    return border;
  }

  // The data gradient of input row y reads output rows (y + padding - tap) / stride, where that is an integer.
  static Border conv_border_back(const Layer& layer) {
    const Window& w = layer.window;
    const auto first = [](int32_t padding, int32_t kernel, int32_t stride) {
      return -((std::max(kernel - 1 - padding, 0) + stride - 1) / stride);
    };
    Border border;
    border.include(first(w.padding_h, w.kernel_h, w.stride_h), (layer.in.height - 1 + w.padding_h) / w.stride_h,
                   first(w.padding_w, w.kernel_w, w.stride_w), (layer.in.width - 1 + w.padding_w) / w.stride_w,
                   layer.out.height, layer.out.width);
    return border;
  }

  // Returns the elements of the plane with its border.
  int64_t lay_out(Plane& plane, int32_t channels, int32_t height, int32_t width, Border border) const {
    const int64_t column_pitch = plan_.num_slots, row_pitch = (int64_t{width} + border.columns) * column_pitch;
    const int64_t channel_pitch = (int64_t{height} + border.rows) * row_pitch;
    const int64_t lead = border.rows * row_pitch + border.columns * column_pitch;
    const int64_t size = lead + channels * channel_pitch;
    if (size > std::numeric_limits<int32_t>::max()) refuse("invert: the network's layers are too large for the GPU");
    plane.channels = channels, plane.height = height, plane.width = width;
    plane.lead = static_cast<int32_t>(lead), plane.channel_pitch = static_cast<int32_t>(channel_pitch);
    plane.row_pitch = static_cast<int32_t>(row_pitch), plane.column_pitch = static_cast<int32_t>(column_pitch);
    return size;
  }

  // ---- Tables

  template <class Offset>
  int32_t table(int64_t count, Offset offset) {
    const int32_t begin = static_cast<int32_t>(plan_.tables.size());
    for (int64_t i = 0; i < count; ++i) plan_.tables.push_back(offset(static_cast<int32_t>(i)));
    return begin;
  }

  // Offset of (y, x) from the first pixel; may lie in the border.
  static int32_t pixel(const Plane& plane, int32_t y, int32_t x) { return y * plane.row_pitch + x * plane.column_pitch; }

  // The elements of `value` in `plane`, which may be `window` times as large: per channel, or flat per element.
  int32_t rows(const Plane& plane, const Value& value, bool flat, int32_t window = 1) {
    if (!flat) return table(value.channels, [&](int32_t c) { return plane.lead + c * plane.channel_pitch; });
    const int32_t size = value.height * value.width;
    return table(int64_t{value.channels} * size, [&](int32_t i) {
      return plane.lead + i / size * plane.channel_pitch +
             pixel(plane, i % size / value.width * window, i % value.width * window);
    });
  }

  int32_t columns(const Plane& plane, const Value& value, bool flat, int32_t window = 1) {
    if (flat) return table(1, [](int32_t) { return 0; });
    return table(int64_t{value.height} * value.width, [&](int32_t i) {
      return pixel(plane, i / value.width * window, i % value.width * window);
    });
  }

  Sink sink(const Value& value, bool flat) {
    Sink made;
    made.kind = value.pooled ? SinkKind::kReluPool : value.relu ? SinkKind::kRelu : SinkKind::kStore;
    made.out = value.activation.place;
    made.out_rows = rows(value.activation, value, flat), made.out_columns = columns(value.activation, value, flat);
    if (value.pooled) {
      made.aux = value.mask.place;
      made.aux_rows = rows(value.mask, value, flat), made.aux_columns = columns(value.mask, value, flat);
    }
    return made;
  }

  Sink back_sink(const Value& value, bool flat) {
    Sink made;
    made.kind = value.pooled ? SinkKind::kPoolBack : value.relu ? SinkKind::kReluBack : SinkKind::kStore;
    made.out = value.gradient.place;
    made.out_rows = rows(value.gradient, value, flat, value.window());
    made.out_columns = columns(value.gradient, value, flat, value.window());
    made.step_right = value.gradient.column_pitch, made.step_down = value.gradient.row_pitch;
    if (value.relu) {
      const Plane& read = value.pooled ? value.mask : value.activation;
      made.aux = read.place;
      made.aux_rows = rows(read, value, flat), made.aux_columns = columns(read, value, flat);
    }
    return made;
  }

  // ---- Passes

  void add_forward(const Stage& stage) {
    const Layer& layer = *stage.layer;
    const Value &in = *stage.in, &out = *stage.out;
    const bool flat = layer.in.flat;
    Pass pass;
    pass.sink = sink(out, flat && layer.kind != LayerKind::kLinear);
    switch (layer.kind) {
      case LayerKind::kLinear:
        pass.in = in.activation.place, pass.partial = stage.partial;
        pass.in_rows = rows(in.activation, in, true), pass.in_columns = columns(in.activation, in, true);
        pass.num_outputs = layer.out.channels, pass.num_positions = 1, pass.depth = layer.in.channels;
        pass.split_depth = split_depth(pass.depth);
        pass.source_rows = table(pass.depth, [](int32_t k) { return k; });
        pass.source_stride = pass.depth;
        set_parameters(pass, layer.weight, layer.bias);
        break;
      case LayerKind::kConv2d:
        set_convolution(pass, layer, in.activation, out);
        break;
      case LayerKind::kMaxPool2d:
      case LayerKind::kAvgPool2d:
        set_pooling(pass, stage, layer.kind == LayerKind::kMaxPool2d ? PassKind::kMaxPool : PassKind::kAvgPool);
        pass.from = in.activation;
        pass.num_outputs = out.channels, pass.num_positions = out.height * out.width;
        break;
      default:
        set_scale(pass, layer, in.activation, in, flat, layer.bias);
    }
    plan_.passes.push_back(pass);
  }

  void add_back(const Stage& stage) {
    const Layer& layer = *stage.layer;
    const Value &in = *stage.in, &out = *stage.out;
    const bool flat = layer.in.flat;
    if (layer.kind == LayerKind::kConv2d) return add_convolution_back(layer, in, out);
    Pass pass;
    pass.sink = back_sink(in, flat);
    switch (layer.kind) {
      case LayerKind::kLinear:
        pass.in = out.gradient.place, pass.partial = stage.partial_back;
        pass.in_rows = rows(out.gradient, out, true), pass.in_columns = columns(out.gradient, out, true);
        pass.num_outputs = layer.in.channels, pass.num_positions = 1, pass.depth = layer.out.channels;
        pass.split_depth = split_depth(pass.depth);
        pass.source_rows = table(pass.depth, [&](int32_t k) { return k * layer.in.channels; });
        pass.source_stride = 1;
        set_parameters(pass, layer.weight, -1);
        break;
      case LayerKind::kMaxPool2d:
      case LayerKind::kAvgPool2d:
        set_pooling(pass, stage, layer.kind == LayerKind::kMaxPool2d ? PassKind::kMaxPoolBack : PassKind::kAvgPoolBack);
        pass.from = in.gradient, pass.to = out.gradient;
        pass.num_outputs = in.channels, pass.num_positions = in.height * in.width;
        break;
      default:
        set_scale(pass, layer, out.gradient, in, flat, -1);
    }
    plan_.passes.push_back(pass);
  }

  // Results at all positions of `out`, or at the four of each of its windows.
  void set_convolution(Pass& pass, const Layer& layer, const Plane& in, const Value& out) {
    const Window& w = layer.window;
    const int32_t taps = w.size(), window = out.window();
    pass.in = in.place;
    pass.num_outputs = out.channels, pass.num_positions = out.height * out.width;
    pass.depth = pass.split_depth = layer.in.channels * taps;
    pass.in_rows = table(pass.depth, [&](int32_t k) {
      return in.lead + k / taps * in.channel_pitch + pixel(in, k % taps / w.kernel_w, k % w.kernel_w);
    });
    pass.in_columns = table(pass.num_positions, [&](int32_t i) {
      return pixel(in, i / out.width * window * w.stride_h - w.padding_h,
                   i % out.width * window * w.stride_w - w.padding_w);
    });
    pass.step_right = w.stride_w * in.column_pitch, pass.step_down = w.stride_h * in.row_pitch;
    pass.source_rows = table(pass.depth, [](int32_t k) { return k; });
    pass.source_stride = pass.depth;
    set_parameters(pass, layer.weight, layer.bias);
  }

  // One pass per class of input pixels that see the same taps: those with equal (y + padding) % stride.
  void add_convolution_back(const Layer& layer, const Value& in, const Value& out) {
    const Window& w = layer.window;
    const Plane& from = out.gradient;
    for (int32_t class_y = 0; class_y < w.stride_h; ++class_y) {
      for (int32_t class_x = 0; class_x < w.stride_w; ++class_x) {
        std::vector<int32_t> positions;  // of the input
        for (int32_t i = 0; i < in.height * in.width; ++i) {
          if ((i / in.width + w.padding_h) % w.stride_h == class_y && (i % in.width + w.padding_w) % w.stride_w == class_x)
            positions.push_back(i);
        }
        if (positions.empty()) continue;
        const int32_t taps_h = std::max(0, (w.kernel_h - class_y + w.stride_h - 1) / w.stride_h);
        const int32_t taps_w = std::max(0, (w.kernel_w - class_x + w.stride_w - 1) / w.stride_w);
        const int32_t taps = taps_h * taps_w, num_positions = static_cast<int32_t>(positions.size());
        Pass pass;
        pass.in = from.place;
        pass.num_outputs = in.channels, pass.num_positions = num_positions;
        pass.depth = pass.split_depth = out.channels * taps;
        pass.in_rows = table(pass.depth, [&](int32_t k) {
          return from.lead + k / taps * from.channel_pitch + pixel(from, -(k % taps / taps_w), -(k % taps_w));
        });
        pass.in_columns = table(num_positions, [&](int32_t i) {
          return pixel(from, (positions[i] / in.width + w.padding_h) / w.stride_h,
                       (positions[i] % in.width + w.padding_w) / w.stride_w);
        });
        pass.source_rows = table(pass.depth, [&](int32_t k) {
          const int32_t tap_y = k % taps / taps_w * w.stride_h + class_y, tap_x = k % taps_w * w.stride_w + class_x;
          return k / taps * in.channels * w.size() + tap_y * w.kernel_w + tap_x;
        });
        pass.source_stride = w.size();
        set_parameters(pass, layer.weight, -1);
        pass.sink = back_sink(in, false);
        pass.sink.out_columns = of_positions(pass.sink.out_columns, positions);
        if (in.relu) pass.sink.aux_columns = of_positions(pass.sink.aux_columns, positions);
        plan_.passes.push_back(pass);
      }
    }
  }

  int32_t of_positions(int32_t columns, const std::vector<int32_t>& positions) {
    return table(static_cast<int64_t>(positions.size()),
                 [&](int32_t i) { return plan_.tables[columns + positions[i]]; });
  }

  void set_scale(Pass& pass, const Layer& layer, const Plane& in, const Value& value, bool flat, int64_t bias) {
    pass.kind = PassKind::kScale;
    pass.in = in.place;
    pass.in_rows = rows(in, value, flat), pass.in_columns = columns(in, value, flat);
    pass.num_outputs = flat ? value.channels * value.height * value.width : value.channels;
    pass.num_positions = flat ? 1 : value.height * value.width;
    pass.weights = -1;
    if (layer.kind != LayerKind::kAffine) return;
    pass.depth = pass.split_depth = 1;
    pass.source_rows = table(1, [](int32_t) { return 0; });
    pass.source_stride = 1;
    set_parameters(pass, layer.weight, bias);
  }

  void set_pooling(Pass& pass, const Stage& stage, PassKind kind) {
    const Window& w = stage.layer->window;
    pass.kind = kind;
    pass.to = stage.out->activation;
    pass.winners = stage.winners;
    pass.kernel_h = w.kernel_h, pass.kernel_w = w.kernel_w, pass.stride_h = w.stride_h, pass.stride_w = w.stride_w;
    pass.padding_h = w.padding_h, pass.padding_w = w.padding_w;
  }

  void set_parameters(Pass& pass, int64_t weight_source, int64_t bias_source) {
    pass.padded_outputs = padded(pass.num_outputs);
    pass.weight_source = weight_source, pass.bias_source = bias_source;
    pass.weights = plan_.packed_size;
    plan_.packed_size += int64_t{pass.depth} * pass.padded_outputs;
    if (bias_source < 0) return;
    pass.bias = plan_.packed_size;
    plan_.packed_size += pass.padded_outputs;
  }

  const Program& program_;
  InvertPlan plan_;
  std::deque<Value> values_;  // of the images, then of each stage; never move
  std::vector<Stage> stages_;
};

}  // namespace pydrift
