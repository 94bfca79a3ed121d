// Makes the plan of a network on the GPU from its program. Host code without torch.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "common/refuse.h"
#include "network/cuda/block_flat.h"
#include "network/cuda/block_geometry.h"
#include "network/cuda/block_launch.h"
#include "network/program/program.h"

namespace pydrift {

class BlockPlanner {
 public:
  // back: whether the gradient of the pixels is needed. one_model: a block runs one model only, so the weights of its
  // linear layers can stay in shared memory.
  BlockPlanner(const Program& program, bool back, bool one_model, Arithmetic arithmetic, const BlockShape& shape,
               std::vector<BlockRequest> requests)
      : program_(program), back_(back), arithmetic_(arithmetic) {
    plan_.num_slots = shape.num_slots;
    plan_.num_classes = program.num_classes();
    make_stages();
    make_memory(shape, one_model, std::move(requests));
    for (const Stage& stage : stages_) add_forward(stage);
    plan_.num_forward = plan_.num_passes();
    const Value& last = values_.back();
    plan_.input = values_[0].activation;
    plan_.logits = last.activation.place;
    plan_.logit_rows = rows(last.activation, last, true);
    if (!back) return;
    for (size_t i = stages_.size(); i-- > 0;) add_back(stages_[i]);
    plan_.input_gradient = values_[0].gradient;
    plan_.seed_sink = back_sink(last, true);
  }

  BlockPlan take() { return std::move(plan_); }

 private:
  // What a stage makes: after its ReLU and its 2x2 pooling, if it has them. The gradient is the one before its ReLU; if
  // pooled, the one of the maxima: it takes the memory of the activation, and the mask says whose it is.
  struct Value {
    int32_t channels = 0, height = 1, width = 1;
    bool relu = false, pooled = false;
    Plane activation, gradient;
    Place mask;  // bytes, laid out as the activation

    int32_t window() const { return pooled ? 2 : 1; }
  };

  struct Stage {
    const Layer* layer;  // a ReLU that could not be fused into the layer before it is a stage that scales by 1
    Value *in, *out;
    Place winners;
    Place weights, weights_back;  // if linear, and they stay in shared memory
  };

  // ---- Stages

  void make_stages() {
    const std::vector<Layer>& layers = program_.layers;
    add_value(program_.input);
    for (size_t i = 0; i < layers.size(); ++i) {
      const Layer& layer = layers[i];
      if (layer.kind == LayerKind::kFlatten) continue;
      Value* in = &values_.back();
      Value& out = add_value(layer.out);
      if (layer.kind == LayerKind::kRelu) {
        out.relu = true;
      } else if (i + 1 < layers.size() && layers[i + 1].kind == LayerKind::kRelu) {
        out.relu = true;
        ++i;
        if (layer.kind == LayerKind::kConv2d && i + 1 < layers.size() && is_quad_pooling(layers[i + 1])) {
          out.pooled = true;
          out.height /= 2, out.width /= 2;
          ++i;
        }
      }
      stages_.push_back({&layer, in, &out, {}, {}, {}});
    }
  }

  Value& add_value(const LayerShape& shape) {
    Value& value = values_.emplace_back();
    value.channels = shape.channels, value.height = shape.height, value.width = shape.width;
    return value;
  }

  // ---- Memory

  // For the weights and the partial sums of a linear layer, or of its gradient.
  void request_linear(const BlockShape& shape, bool one_model, int32_t depth, int32_t outputs, Place& weights,
                      std::vector<BlockRequest>& requests) {
    Pass pass;
    cut_linear(pass, depth, outputs);
    partial_size_ = std::max(partial_size_, int64_t{pass.num_splits()} * pass.padded_outputs * shape.num_slots);
    const int64_t num_words = most_words_of_a_block(pass, shape.cluster_size, shape.num_slots);
    if (one_model) requests.push_back({&weights, num_words, 0.5, true});  // after all else: L2 caches weights, too
  }

  void make_memory(const BlockShape& shape, bool one_model, std::vector<BlockRequest> requests) {
    const int64_t slots = plan_.num_slots;
    std::vector<double> reads(values_.size(), 1.0), reads_back(values_.size(), 1.0);
    std::vector<Border> borders(values_.size()), borders_back(values_.size());
    for (size_t i = 0; i < stages_.size(); ++i) {
      Stage& stage = stages_[i];
      const Layer& layer = *stage.layer;
      if (layer.kind == LayerKind::kConv2d) {
        borders[i] = conv_border(layer);
        if (back_) borders_back[i + 1] = conv_border_back(layer, stage.out->window());
        const double taps = layer.window.size();
        reads[i] += taps * num_tiles(layer.out.channels) / (layer.window.stride_h * layer.window.stride_w);
        reads_back[i + 1] += taps * num_tiles(layer.in.channels);
      } else if (layer.kind == LayerKind::kLinear) {
        const int32_t in = layer.in.channels, out = layer.out.channels;
        reads[i] += num_tiles(out), reads_back[i + 1] += num_tiles(in);
        request_linear(shape, one_model, in, out, stage.weights, requests);
        if (back_) request_linear(shape, one_model, out, in, stage.weights_back, requests);
      } else if (layer.kind == LayerKind::kMaxPool2d && back_) {
        requests.push_back({&stage.winners, (layer.out.size() * slots + 3) / 4, 4.0});
      }
    }
    for (size_t i = 0; i < values_.size(); ++i) {
      Value& v = values_[i];
      Border& border = borders[i];
      if (v.pooled) border.rows = std::max(border.rows, borders_back[i].rows);
      if (v.pooled) border.columns = std::max(border.columns, borders_back[i].columns);
      const int64_t size = lay_out(v.activation, v.channels, v.height, v.width, border, plan_.num_slots);
      requests.push_back({&v.activation.place, size, std::max(reads[i], v.pooled && back_ ? reads_back[i] : 0.0)});
      if (!back_) continue;
      if (v.pooled) {
        requests.push_back({&v.mask, (size + 3) / 4, reads_back[i]});
      } else {
        const int64_t size_back = lay_out(v.gradient, v.channels, v.height, v.width, borders_back[i], plan_.num_slots);
        requests.push_back({&v.gradient.place, size_back, reads_back[i]});
      }
    }
    requests.push_back({&partial_, partial_size_, 2.0});
    give_memory(plan_, std::move(requests), shape.shared_limit);
    for (Value& v : values_) {
      if (v.pooled) v.gradient = v.activation;
    }
  }

  static double num_tiles(int32_t outputs) { return (outputs + kOutputsPerTile - 1) / kOutputsPerTile; }

  // Tensor cores compute kFragmentRows outputs, however few are wanted.
  Arithmetic arithmetic_of(int32_t outputs) const {
    constexpr int32_t kFewOutputs = 4;
    return outputs > kFewOutputs ? arithmetic_ : Arithmetic::kFma;
  }

  int32_t padded(int32_t outputs) const {
    return rounded_up(outputs, arithmetic_of(outputs) == Arithmetic::kFma ? kOutputsPerTile : kFragmentRows);
  }

  void cut_linear(Pass& pass, int32_t depth, int32_t outputs) const {
    pass.num_outputs = outputs, pass.num_positions = 1, pass.depth = depth;
    pass.is_flat = true, pass.split_depth = flat_split_depth(depth, outputs);
    pass.arithmetic = arithmetic_of(outputs), pass.padded_outputs = padded(outputs);
  }

  // ---- Tables

  template <class Offset>
  int32_t table(int64_t count, Offset offset) {
    const int32_t begin = static_cast<int32_t>(plan_.tables.size());
    for (int64_t i = 0; i < count; ++i) plan_.tables.push_back(offset(static_cast<int32_t>(i)));
    return begin;
  }

  // One entry per product of a sum, and for those that pad it to whole fragments: their weights are 0.
  template <class Offset>
  int32_t depth_table(int32_t depth, Offset offset) {
    return table(rounded_up(depth, kMaxFragmentDepth), [&](int32_t k) { return offset(std::min(k, depth - 1)); });
  }

  // The elements of `value` in `plane`: per channel, or flat per element.
  int32_t rows(const Plane& plane, const Value& value, bool flat) {
    if (!flat) return table(value.channels, [&](int32_t c) { return plane.lead + c * plane.channel_pitch; });
    const int32_t size = value.height * value.width;
    return depth_table(value.channels * size, [&](int32_t i) {
      return plane.lead + i / size * plane.channel_pitch + pixel(plane, i % size / value.width, i % value.width);
    });
  }

  int32_t columns(const Plane& plane, const Value& value, bool flat) {
    if (flat) return table(1, [](int32_t) { return 0; });
    return table(int64_t{value.height} * value.width,
                 [&](int32_t i) { return pixel(plane, i / value.width, i % value.width); });
  }

  Sink sink(const Value& value, bool flat) {
    Sink made;
    made.kind = value.pooled ? SinkKind::kReluPool : value.relu ? SinkKind::kRelu : SinkKind::kStore;
    made.out = value.activation.place;
    made.out_rows = rows(value.activation, value, flat), made.out_columns = columns(value.activation, value, flat);
    made.has_mask = value.pooled && back_;
    made.aux = value.mask, made.aux_rows = made.out_rows, made.aux_columns = made.out_columns;
    return made;
  }

  Sink back_sink(const Value& value, bool flat) {
    Sink made;
    made.kind = value.relu && !value.pooled ? SinkKind::kReluBack : SinkKind::kStore;
    made.out = value.gradient.place, made.aux = value.activation.place;
    made.out_rows = rows(value.gradient, value, flat), made.out_columns = columns(value.gradient, value, flat);
    made.aux_rows = rows(value.activation, value, flat), made.aux_columns = columns(value.activation, value, flat);
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
        cut_linear(pass, layer.in.channels, layer.out.channels);
        pass.in = in.activation.place, pass.partial = partial_, pass.resident = stage.weights;
        pass.in_rows = rows(in.activation, in, true), pass.in_columns = columns(in.activation, in, true);
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
        cut_linear(pass, layer.out.channels, layer.in.channels);
        pass.in = out.gradient.place, pass.partial = partial_, pass.resident = stage.weights_back;
        pass.in_rows = rows(out.gradient, out, true), pass.in_columns = columns(out.gradient, out, true);
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
        set_scale(pass, layer, out.gradient, out, flat, -1);
    }
    plan_.passes.push_back(pass);
  }

  // Results at all positions of `out`, or at the four of each of its windows.
  void set_convolution(Pass& pass, const Layer& layer, const Plane& in, const Value& out) {
    const Window& w = layer.window;
    const int32_t taps = w.size(), window = out.window();
    pass.in = in.place;
    pass.num_outputs = out.channels, pass.num_positions = out.height * out.width;
    pass.depth = layer.in.channels * taps;
    pass.in_rows = depth_table(pass.depth, [&](int32_t k) {
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

  void add_convolution_back(const Layer& layer, const Value& in, const Value& out) {
    const Window& w = layer.window;
    const int32_t window = out.window();
    const auto classes_x = taps_back(w.padding_w, w.stride_w, w.kernel_w, in.width, window);
    for (const Taps& y : taps_back(w.padding_h, w.stride_h, w.kernel_h, in.height, window)) {
      for (const Taps& x : classes_x) {
        if (!y.pixels.empty() && !x.pixels.empty()) add_convolution_back(layer, in, out, y, x);
      }
    }
    plan_.passes.back().ends_phase = true;
  }

  void add_convolution_back(const Layer& layer, const Value& in, const Value& out, const Taps& y, const Taps& x) {
    const Window& w = layer.window;
    const Plane& from = out.gradient;
    const int32_t window = out.window(), period_h = w.stride_h * window, period_w = w.stride_w * window;
    const int32_t taps_w = static_cast<int32_t>(x.taps.size());
    const int32_t taps = static_cast<int32_t>(y.taps.size()) * taps_w;
    const int32_t num_x = static_cast<int32_t>(x.pixels.size());
    const auto tap_y = [&](int32_t k) { return y.taps[k % taps / taps_w]; };
    const auto tap_x = [&](int32_t k) { return x.taps[k % taps_w]; };
    Pass pass;
    pass.ends_phase = false;
    pass.in = from.place, pass.mask = out.mask;
    pass.num_outputs = in.channels, pass.num_positions = static_cast<int32_t>(y.pixels.size()) * num_x;
    pass.depth = out.channels * taps;
    pass.in_rows = depth_table(pass.depth, [&](int32_t k) {
      return from.lead + k / taps * from.channel_pitch + pixel(from, tap_y(k).shift, tap_x(k).shift);
    });
    if (out.pooled) {
      pass.in_parts = depth_table(pass.depth, [&](int32_t k) { return tap_y(k).part * 2 + tap_x(k).part; });
    }
    pass.in_columns = table(pass.num_positions, [&](int32_t i) {
      return pixel(from, (y.pixels[i / num_x] + w.padding_h) / period_h,
                   (x.pixels[i % num_x] + w.padding_w) / period_w);
    });
    pass.source_rows = table(pass.depth, [&](int32_t k) {
      return k / taps * in.channels * w.size() + tap_y(k).tap * w.kernel_w + tap_x(k).tap;
    });
    pass.source_stride = w.size();
    set_parameters(pass, layer.weight, -1);
    pass.sink = back_sink(in, false);
    const auto of_class = [&](int32_t columns) {
      return table(pass.num_positions, [&](int32_t i) {
        return plan_.tables[columns + y.pixels[i / num_x] * in.width + x.pixels[i % num_x]];
      });
    };
    pass.sink.out_columns = of_class(pass.sink.out_columns), pass.sink.aux_columns = of_class(pass.sink.aux_columns);
    plan_.passes.push_back(pass);
  }

  void set_scale(Pass& pass, const Layer& layer, const Plane& in, const Value& value, bool flat, int64_t bias) {
    pass.kind = PassKind::kScale;
    pass.in = in.place;
    pass.in_rows = rows(in, value, flat), pass.in_columns = columns(in, value, flat);
    pass.num_outputs = flat ? value.channels * value.height * value.width : value.channels;
    pass.num_positions = flat ? 1 : value.height * value.width;
    pass.weights = -1;
    if (layer.kind != LayerKind::kAffine) return;
    pass.depth = 1;
    pass.source_rows = table(1, [](int32_t) { return 0; });
    pass.source_stride = 1;
    set_parameters(pass, layer.weight, bias);
  }

  void set_pooling(Pass& pass, const Stage& stage, PassKind kind) {
    const Window& w = stage.layer->window;
    pass.kind = kind;
    pass.to = stage.out->activation;
    pass.winners = stage.winners, pass.has_winners = back_ && stage.layer->kind == LayerKind::kMaxPool2d;
    pass.kernel_h = w.kernel_h, pass.kernel_w = w.kernel_w, pass.stride_h = w.stride_h, pass.stride_w = w.stride_w;
    pass.padding_h = w.padding_h, pass.padding_w = w.padding_w;
  }

  void set_parameters(Pass& pass, int64_t weight_source, int64_t bias_source) {
    const bool is_product = pass.kind == PassKind::kProduct;
    pass.arithmetic = is_product ? arithmetic_of(pass.num_outputs) : Arithmetic::kFma;
    pass.padded_outputs = is_product ? padded(pass.num_outputs) : rounded_up(pass.num_outputs, kOutputsPerTile);
    pass.weight_source = weight_source, pass.bias_source = bias_source;
    pass.weights = plan_.packed_size;
    plan_.packed_size += pass.num_words();
    if (bias_source < 0) return;
    pass.bias = plan_.packed_size;
    plan_.packed_size += pass.padded_outputs;
  }

  const Program& program_;
  const bool back_;
  const Arithmetic arithmetic_;
  BlockPlan plan_;
  std::deque<Value> values_;  // of the images, then of each stage; never move
  std::vector<Stage> stages_;
  Place partial_;  // of one linear layer after the other
  int64_t partial_size_ = 0;
};

}  // namespace pydrift
