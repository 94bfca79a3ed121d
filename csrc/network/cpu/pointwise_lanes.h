// The layers that mix no channels: affine layers, ReLU and pooling on their own. No torch.
#pragma once

#include "network/cpu/network_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

inline void affine_forward(const Network& network, const Stage& stage, int32_t g) {
  const float *in = network.at(stage.in, g), *scale = network.weights + stage.weights;
  const float* shift = scale + stage.in.channels;
  float* out = network.at(stage.out, g);
  for_each_element(stage.in, stage.out, [&](int64_t from, int64_t to, int32_t c, int64_t) {
    store(out + to, load(in + from) * scale[c] + shift[c]);
  });
}

inline void affine_backward(const Network& network, const Stage& stage, int32_t g) {
  const float *gradient = network.at(stage.out_gradient, g), *scale = network.weights + stage.weights;
  float* in_gradient = network.at(stage.in_gradient, g);
  for_each_element(stage.in_gradient, stage.out_gradient, [&](int64_t to, int64_t from, int32_t c, int64_t) {
    store(in_gradient + to, load(gradient + from) * scale[c]);
  });
}

inline void relu_forward(const Network& network, const Stage& stage, int32_t g) {
  const float* in = network.at(stage.in, g);
  float* out = network.at(stage.out, g);
  uint8_t* codes = network.codes_of(stage, g);
  for_each_element(stage.in, stage.out, [&](int64_t from, int64_t to, int32_t, int64_t number) {
    const Vec value = load(in + from);
    store(out + to, rectified(value));
    if (codes != nullptr) store_codes(codes + number * kLanes, value > Vec{} ? IntVec{} : same_code(kDeadCode));
  });
}

inline void relu_backward(const Network& network, const Stage& stage, int32_t g) {
  const float* gradient = network.at(stage.out_gradient, g);
  float* in_gradient = network.at(stage.in_gradient, g);
  const uint8_t* codes = network.codes_of(stage, g);
  for_each_element(stage.in_gradient, stage.out_gradient, [&](int64_t to, int64_t from, int32_t, int64_t number) {
    store(in_gradient + to, load_codes(codes + number * kLanes) == 0 ? load(gradient + from) : Vec{});
  });
}

// function(output's channel, offset and number; offset of a position of its window, which of the window's it is)
template <class Function>
PYDRIFT_INLINE void for_each_in_windows(const Window& w, const Map& in, const Map& out, Function function) {
  for_each_element(out, out, [&](int64_t at, int64_t, int32_t c, int64_t number) {
    const int32_t place = static_cast<int32_t>(number % out.plane_size());
    const int32_t top = place / out.width * w.stride_h - w.padding_h;
    const int32_t left = place % out.width * w.stride_w - w.padding_w;
    for (int32_t ky = 0; ky < w.kernel_h; ++ky) {
      for (int32_t kx = 0; kx < w.kernel_w; ++kx) {
        const int32_t y = top + ky, x = left + kx;
        if (y < 0 || y >= in.height || x < 0 || x >= in.width) continue;
        function(at, number, int64_t{c} * in.plane + in.at(y, x), ky * w.kernel_w + kx);
      }
    }
  });
}

// The first of equal values wins, as in torch; the first position of a window is always taken.
inline void max_pool_forward(const Network& network, const Stage& stage, int32_t g) {
  const float* in = network.at(stage.in, g);
  float* out = network.at(stage.out, g);
  uint8_t* codes = network.codes_of(stage, g);
  int64_t last = -1;
  const auto offer = [&](int64_t to, int64_t number, int64_t from, int32_t position) {
    const Vec value = load(in + from);
    if (codes == nullptr) {
      store(out + to, number == last ? maximum(value, load(out + to)) : value);
      last = number;
      return;
    }
    uint8_t* code = codes + number * kLanes;
    if (number != last) {
      last = number;
      store(out + to, value);
      store_codes(code, same_code(position));
    } else {
      const Vec best = load(out + to);
      store(out + to, value > best ? value : best);
      store_codes(code, value > best ? same_code(position) : load_codes(code));
    }
  };
  for_each_in_windows(stage.window, stage.in, stage.out, offer);
}

inline void max_pool_backward(const Network& network, const Stage& stage, int32_t g) {
  const float* gradient = network.at(stage.out_gradient, g);
  float* in_gradient = network.at(stage.in_gradient, g);
  const uint8_t* codes = network.codes_of(stage, g);
  fill_zero(network, stage.in_gradient, g);
  for_each_in_windows(stage.window, stage.in_gradient, stage.out_gradient,
                      [&](int64_t from, int64_t number, int64_t to, int32_t position) {
                        const IntVec code = load_codes(codes + number * kLanes);
                        const Vec share = code == position ? load(gradient + from) : Vec{};
                        store(in_gradient + to, load(in_gradient + to) + share);
                      });
}

inline void avg_pool_forward(const Network& network, const Stage& stage, int32_t g) {
  const float* in = network.at(stage.in, g);
  float* out = network.at(stage.out, g);
  const float share = 1.0f / static_cast<float>(stage.window.kernel_h * stage.window.kernel_w);
  fill_zero(network, stage.out, g);
  for_each_in_windows(stage.window, stage.in, stage.out, [&](int64_t to, int64_t, int64_t from, int32_t) {
    store(out + to, load(out + to) + load(in + from) * share);
  });
}

inline void avg_pool_backward(const Network& network, const Stage& stage, int32_t g) {
  const float* gradient = network.at(stage.out_gradient, g);
  float* in_gradient = network.at(stage.in_gradient, g);
  const float share = 1.0f / static_cast<float>(stage.window.kernel_h * stage.window.kernel_w);
  fill_zero(network, stage.in_gradient, g);
  for_each_in_windows(stage.window, stage.in_gradient, stage.out_gradient,
                      [&](int64_t from, int64_t, int64_t to, int32_t) {
                        store(in_gradient + to, load(in_gradient + to) + load(gradient + from) * share);
                      });
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
