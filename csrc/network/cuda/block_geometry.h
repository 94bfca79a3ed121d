// How planes lie in memory, and which pixels a convolution and its data gradient read. Host code without torch.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "common/refuse.h"
#include "network/cuda/block_plan.h"
#include "network/program/program.h"

namespace pydrift {

inline int32_t rounded_up(int32_t size, int32_t unit) { return (size + unit - 1) / unit * unit; }

// What is read most gets shared memory, as long as there is some.
inline void give_memory(BlockPlan& plan, std::vector<BlockRequest> requests, int64_t shared_limit) {
  std::stable_sort(requests.begin(), requests.end(),
                   [](const BlockRequest& a, const BlockRequest& b) { return a.reads > b.reads; });
  for (const BlockRequest& request : requests) {
    const int64_t size = (request.size + 3) / 4 * 4;  // 16 bytes
    const bool shared = plan.shared_size + size <= shared_limit;
    if (request.only_shared && !shared) continue;
    int64_t& used = shared ? plan.shared_size : plan.workspace_size;
    *request.place = {used, shared};
    used += size;
  }
}

// How far beyond an image is read, on either side.
struct Border {
  int32_t rows = 0, columns = 0;
};

// Returns the elements of the plane with its border.
inline int64_t lay_out(Plane& plane, int32_t channels, int32_t height, int32_t width, Border border,
                       int32_t num_slots) {
  const int64_t column_pitch = num_slots, row_pitch = (int64_t{width} + border.columns) * column_pitch;
  const int64_t channel_pitch = (int64_t{height} + border.rows) * row_pitch;
  const int64_t lead = border.rows * row_pitch + border.columns * column_pitch;
  const int64_t size = lead + channels * channel_pitch;
  if (size > std::numeric_limits<int32_t>::max()) refuse("program: its layers are too large for the GPU");
  plane.channels = channels, plane.height = height, plane.width = width;
  plane.lead = static_cast<int32_t>(lead), plane.channel_pitch = static_cast<int32_t>(channel_pitch);
  plane.row_pitch = static_cast<int32_t>(row_pitch), plane.column_pitch = static_cast<int32_t>(column_pitch);
  return size;
}

// Offset of (y, x) from the first pixel; may lie in the border.
inline int32_t pixel(const Plane& plane, int32_t y, int32_t x) { return y * plane.row_pitch + x * plane.column_pitch; }

inline Border conv_border(const Layer& layer) {
  const Window& w = layer.window;
  const auto reach = [](int32_t padding, int32_t stride, int32_t kernel, int32_t in, int32_t out) {
    return std::max({0, padding, (out - 1) * stride - padding + kernel - in});
  };
  return {reach(w.padding_h, w.stride_h, w.kernel_h, layer.in.height, layer.out.height),
          reach(w.padding_w, w.stride_w, w.kernel_w, layer.in.width, layer.out.width)};
}

// Along one axis, the input pixels whose gradient has the same taps: those with equal (pixel + padding) % period, the
// period being stride * window. A tap reads window (pixel + padding) / period + shift, if `part` of it is the maximum.
struct Tap {
  int32_t tap, shift, part;
};

struct Taps {
  std::vector<int32_t> pixels;
  std::vector<Tap> taps;
};

inline std::vector<Taps> taps_back(int32_t padding, int32_t stride, int32_t kernel, int32_t size, int32_t window) {
  const int32_t period = stride * window;
  std::vector<Taps> classes(period);
  for (int32_t pixel = 0; pixel < size; ++pixel) classes[(pixel + padding) % period].pixels.push_back(pixel);
  for (int32_t c = 0; c < period; ++c) {
    for (int32_t tap = 0; tap < kernel; ++tap) {
      if ((c - tap) % stride != 0) continue;
      const int32_t position = (c - tap) / stride + kernel * window;  // the last so that it is not negative
      classes[c].taps.push_back({tap, position / window - kernel, position % window});
    }
  }
  return classes;
}

// Where the data gradient of a convolution reads what it gets, in windows of 1 or 2 positions.
inline Border conv_border_back(const Layer& layer, int32_t window) {
  const Window& w = layer.window;
  Border border;
  const auto include = [&](int32_t padding, int32_t stride, int32_t kernel, int32_t in, int32_t out, int32_t& size) {
    for (const Taps& taps : taps_back(padding, stride, kernel, in, window)) {
      for (const int32_t pixel : taps.pixels) {
        for (const Tap& tap : taps.taps) {
          const int32_t at = (pixel + padding) / (stride * window) + tap.shift;
          size = std::max({size, -at, at - (out / window - 1)});
        }
      }
    }
  };
  include(w.padding_h, w.stride_h, w.kernel_h, layer.in.height, layer.out.height, border.rows);
  include(w.padding_w, w.stride_w, w.kernel_w, layer.in.width, layer.out.width, border.columns);
  return border;
}

}  // namespace pydrift
