// A layer program: a chain of layers as plain numbers, and their shapes. No torch.
//
// pydrift.ops.invert documents the encoding; FusedModel.program() writes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/refuse.h"

namespace pydrift {

enum class LayerKind : int32_t { kLinear, kConv2d, kAffine, kRelu, kMaxPool2d, kAvgPool2d, kFlatten };

inline constexpr int32_t kNumLayerKinds = 7;
inline constexpr int64_t kMaxValuesPerLayer = int64_t{1} << 24;
inline constexpr int64_t kMaxParameters = int64_t{1} << 28;  // 1 GiB of float32, as pydrift.arch has it
inline constexpr int64_t kMaxStrides = 4096;  // of a convolution, down times across: each has a pass of its own back
inline constexpr int64_t kMaxPoolWindow = 64;                // positions, so that one fits in a byte

// The name of a layer, and how many numbers follow its kind.
struct LayerFormat {
  const char* name;
  int32_t num_arguments;
};

inline constexpr LayerFormat kLayerFormats[kNumLayerKinds] = {
    {"linear", 2}, {"conv2d", 8}, {"affine", 1}, {"relu", 0}, {"max_pool2d", 6}, {"avg_pool2d", 4}, {"flatten", 0}};

struct LayerShape {
  int32_t channels = 0;  // of a flat vector: its length
  int32_t height = 1;
  int32_t width = 1;
  bool flat = false;

  int32_t plane() const { return height * width; }
  int64_t size() const { return int64_t{channels} * height * width; }
};

struct Window {
  int32_t kernel_h = 1, kernel_w = 1;
  int32_t stride_h = 1, stride_w = 1;
  int32_t padding_h = 0, padding_w = 0;

  int32_t size() const { return kernel_h * kernel_w; }
};

// The last tap of `kernel` whose distance from `at` is a multiple of the stride; negative where there is none.
inline int32_t last_tap(int32_t kernel, int32_t stride, int32_t at) {
  return kernel - 1 - ((kernel - 1 - at) % stride + stride) % stride;
}

struct Layer {
  LayerKind kind;
  LayerShape in, out;
  Window window;       // conv2d and pooling
  int64_t weight = 0;  // offset of linear [out, in], conv2d [out, in, kernel_h, kernel_w], affine scale [C]
  int64_t bias = 0;    // offset of the bias or shift, one per output channel
};

// 2x2 max-pooling of a map into quarters, which the loops do while they have the values in registers.
inline bool is_quad_pooling(const Layer& layer) {
  const Window& w = layer.window;
  return layer.kind == LayerKind::kMaxPool2d && w.kernel_h == 2 && w.kernel_w == 2 && w.stride_h == 2 &&
         w.stride_w == 2 && w.padding_h == 0 && w.padding_w == 0;
}

struct Program {
  LayerShape input;
  std::vector<Layer> layers;
  int64_t num_parameters = 0;

  int32_t num_classes() const { return layers.back().out.channels; }
};

namespace program_detail {

template <class... Parts>
[[noreturn]] void refuse_layer(size_t layer, const Parts&... parts) {
  refuse("program: layer ", layer, ": ", parts...);
}

inline Window read_window(const Layer& layer, const int64_t* sizes, int32_t num_sizes, size_t index) {
  for (int32_t i = 0; i < num_sizes; ++i) {
    const int64_t least = i < 4 ? 1 : 0;
    if (sizes[i] < least || sizes[i] > 4096) {
      refuse_layer(index, "kernel and stride must be in [1, 4096] and padding in [0, 4096], got ", sizes[i]);
    }
  }
  Window window;
  window.kernel_h = static_cast<int32_t>(sizes[0]), window.kernel_w = static_cast<int32_t>(sizes[1]);
  window.stride_h = static_cast<int32_t>(sizes[2]), window.stride_w = static_cast<int32_t>(sizes[3]);
  if (num_sizes > 4) {
    window.padding_h = static_cast<int32_t>(sizes[4]), window.padding_w = static_cast<int32_t>(sizes[5]);
  }
  if (layer.in.flat || window.kernel_h > layer.in.height + 2 * window.padding_h ||
      window.kernel_w > layer.in.width + 2 * window.padding_w) {
    refuse_layer(index, "a window of ", window.kernel_h, "x", window.kernel_w, " does not fit ", layer.in.height, "x",
                 layer.in.width, layer.in.flat ? " (flat)" : "");
  }
  return window;
}

inline void set_window(Layer& layer, const Window& window, int32_t channels) {
  layer.window = window;
  layer.out.channels = channels;
  layer.out.height = (layer.in.height + 2 * window.padding_h - window.kernel_h) / window.stride_h + 1;
  layer.out.width = (layer.in.width + 2 * window.padding_w - window.kernel_w) / window.stride_w + 1;
}

inline int32_t read_channels(int64_t channels, int32_t expected, int64_t out, size_t index) {
  if (channels != expected) refuse_layer(index, "takes ", channels, " channels, but gets ", expected);
  if (out < 1 || out > kMaxValuesPerLayer) refuse_layer(index, "makes ", out, " channels");
  return static_cast<int32_t>(out);
}

// Fills in `layer`, whose kind and input are known; returns how many parameters its weight and bias have.
inline std::pair<int64_t, int64_t> read_layer(Layer& layer, const int64_t* arguments, size_t index) {
  layer.out = layer.in;
  switch (layer.kind) {
    case LayerKind::kLinear: {
      if (!layer.in.flat) refuse_layer(index, "linear needs a flatten before it");
      layer.out.channels = read_channels(arguments[0], layer.in.channels, arguments[1], index);
      return {arguments[0] * arguments[1], arguments[1]};
    }
    case LayerKind::kConv2d: {
      const int32_t channels = read_channels(arguments[0], layer.in.channels, arguments[1], index);
      const Window window = read_window(layer, arguments + 2, 6, index);
      const int64_t down = std::min(window.stride_h, layer.in.height);
      const int64_t across = std::min(window.stride_w, layer.in.width);
      if (down * across > kMaxStrides) {
        refuse_layer(index, "a convolution's strides may have ", kMaxStrides, " positions, got ", window.stride_h, "x",
                     window.stride_w);
      }
      set_window(layer, window, channels);
      if (arguments[0] * arguments[1] > kMaxParameters)
        refuse_layer(index, "more than ", kMaxParameters, " parameters");
      return {arguments[0] * arguments[1] * layer.window.size(), arguments[1]};
    }
    case LayerKind::kAffine:
      read_channels(arguments[0], layer.in.channels, arguments[0], index);
      return {arguments[0], arguments[0]};
    case LayerKind::kMaxPool2d:
    case LayerKind::kAvgPool2d: {
      const bool max = layer.kind == LayerKind::kMaxPool2d;
      const Window window = read_window(layer, arguments, max ? 6 : 4, index);
      if (window.size() > kMaxPoolWindow && max) {
        refuse_layer(index, "a max-pooling window may have ", kMaxPoolWindow, " positions, got ", window.size());
      }
      if (2 * window.padding_h > window.kernel_h || 2 * window.padding_w > window.kernel_w) {
        refuse_layer(index, "padding of pooling may be half its kernel at most");
      }
      set_window(layer, window, layer.in.channels);
      return {0, 0};
    }
    case LayerKind::kFlatten:
      layer.out = {static_cast<int32_t>(layer.in.size()), 1, 1, true};
      return {0, 0};
    default:
      return {0, 0};
  }
}

}  // namespace program_detail

// The program that `codes` [num_codes] write for images of shape `input`. Throws std::invalid_argument with a sentence.
inline Program parse_program(const int64_t* codes, size_t num_codes, LayerShape input) {
  using program_detail::refuse_layer;
  Program program;
  program.input = input;
  LayerShape shape = input;
  for (size_t i = 0; i < num_codes;) {
    const size_t index = program.layers.size();
    if (codes[i] < 0 || codes[i] >= kNumLayerKinds) refuse_layer(index, "unknown kind ", codes[i]);
    const LayerFormat& format = kLayerFormats[codes[i]];
    if (num_codes - i - 1 < static_cast<size_t>(format.num_arguments)) refuse_layer(index, format.name, " is cut off");
    Layer layer;
    layer.kind = static_cast<LayerKind>(codes[i]);
    layer.in = shape;
    const auto [num_weights, num_biases] = program_detail::read_layer(layer, codes + i + 1, index);
    if (layer.out.size() > kMaxValuesPerLayer) refuse_layer(index, "makes more than ", kMaxValuesPerLayer, " values");
    layer.weight = program.num_parameters;
    layer.bias = layer.weight + num_weights;
    program.num_parameters = layer.bias + num_biases;
    if (program.num_parameters > kMaxParameters) refuse_layer(index, "more than ", kMaxParameters, " parameters");
    program.layers.push_back(layer);
    shape = layer.out;
    i += 1 + format.num_arguments;
  }
  if (program.layers.empty() || !shape.flat) {
    refuse("program: must end in flat logits, one per class");
  }
  return program;
}

}  // namespace pydrift
