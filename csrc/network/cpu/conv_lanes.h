// Convolution with the ReLU and pooling that follow it, forward and backward. No torch.
#pragma once

#include "network/cpu/dense_lanes.h"
#include "network/cpu/network_lanes.h"
#include "network/cpu/winograd_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// One pass from map `from` on; finish as run_tiles has it.
template <class Finish>
PYDRIFT_INLINE void run_conv(const Network& network, const Dense& dense, const Map& from, int32_t g, Finish finish) {
  const PlanView& plan = network.plan;
  const float* in = network.at(from, g);
  if (dense.winograd) {
    run_winograd(dense, network.weights, plan.offsets, plan.tiles, from, in, network.patches(), finish);
  } else {
    run_tiles(dense, network.weights, plan.offsets, plan.tiles, in, finish);
  }
}

inline void conv_forward(const Network& network, const Stage& stage, int32_t g) {
  float* out = network.at(stage.out, g);
  uint8_t* codes = network.codes_of(stage, g);
  const int64_t plane = stage.out.plane, num_positions = stage.out.plane_size();
  const auto run = [&](auto finish) __attribute__((always_inline)) {
    run_conv(network, stage.forward, stage.in, g, finish);
  };
  const bool relu = stage.relu;
  if (stage.pooled && codes == nullptr) {
    run([&](const Tile& tile, int32_t o, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
      Vec best = sum[0];
      for (int32_t p = 1; p < kTileSize; ++p) best = maximum(sum[p], best);
      store(out + o * plane + tile.out[0], relu ? rectified(best) : best);
    });
  } else if (stage.pooled) {
    run([&](const Tile& tile, int32_t o, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
      Vec best = sum[0];
      IntVec code = {};
      for (int32_t p = 1; p < kTileSize; ++p) {
        code = sum[p] > best ? same_code(p) : code;
        best = sum[p] > best ? sum[p] : best;
      }
      if (relu) {
        code = best > Vec{} ? code : same_code(kDeadCode);
        best = rectified(best);
      }
      store(out + o * plane + tile.out[0], best);
      store_codes(codes + (o * num_positions + tile.index[0]) * kLanes, code);
    });
  } else if (relu && codes != nullptr) {
    run([&](const Tile& tile, int32_t o, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
      for (int32_t p = 0; p < kTileSize; ++p) {
        store(out + o * plane + tile.out[p], rectified(sum[p]));
        const IntVec code = sum[p] > Vec{} ? IntVec{} : same_code(kDeadCode);
        store_codes(codes + (o * num_positions + tile.index[p]) * kLanes, code);
      }
    });
  } else {
    run([&](const Tile& tile, int32_t o, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
      for (int32_t p = 0; p < kTileSize; ++p) {
        store(out + o * plane + tile.out[p], relu ? rectified(sum[p]) : sum[p]);
      }
    });
  }
}

// The gradient at the convolution itself, through the pooling and the ReLU, into a map with a border of zeros: of the
// channels from `first` on, as many as that map holds.
inline void conv_spread(const Network& network, const Stage& stage, int32_t g, int32_t first) {
  const Map &from = stage.out_gradient, &to = stage.spread;
  const float* gradient = network.at(from, g) + int64_t{first} * from.plane;
  float* spread = network.at(to, g);
  const uint8_t* codes = network.codes_of(stage, g);
  if (codes != nullptr) codes += int64_t{first} * from.plane_size() * kLanes;
  for (int32_t c = 0; c < to.channels && first + c < from.channels; ++c) {
    float* target = spread + int64_t{c} * to.plane;
    for (int32_t y = 0; y < from.height; ++y) {
      for (int32_t x = 0; x < from.width; ++x) {
        const Vec value = load(gradient + int64_t{c} * from.plane + from.at(y, x));
        if (codes == nullptr) {
          store(target + to.at(y, x), value);
          continue;
        }
        const IntVec code = load_codes(codes);
        codes += kLanes;
        if (stage.pooled) {
          for (int32_t p = 0; p < kTileSize; ++p) {
            store(target + to.at(2 * y + p / 2, 2 * x + p % 2), code == p ? value : Vec{});
          }
        } else {
          store(target + to.at(y, x), code == 0 ? value : Vec{});
        }
      }
    }
  }
}

// conv_spread and the data gradient in one, for 3x3 kernels with 2x2 pooling and few input channels: each pooled
// gradient adds to the 4x4 pixels that its window saw, and those sums stay in registers over all channels.
inline void conv_scatter(const Network& network, const Stage& stage, int32_t g) {
  const float* gradient = network.at(stage.out_gradient, g);
  float* in_gradient = network.at(stage.in_gradient, g);
  const uint8_t* codes = network.codes_of(stage, g);
  const Map &from = stage.out_gradient, &to = stage.in_gradient;
  const int64_t num_positions = from.plane_size();
  fill_zero(network, to, g);
  for (int32_t y = 0; y < from.height; ++y) {
    for (int32_t x = 0; x < from.width; ++x) {
      for (int32_t channel = 0; channel < to.channels; ++channel) {
        const float* weight = network.weights + stage.weights + int64_t{channel} * from.channels * kSmallTaps;
        Vec patch[kPatchWidth][kPatchWidth] = {};
        for (int32_t o = 0; o < from.channels; ++o, weight += kSmallTaps) {
          const Vec value = load(gradient + int64_t{o} * from.plane + from.at(y, x));
          const IntVec code = load_codes(codes + (o * num_positions + y * from.width + x) * kLanes);
          Vec share[kTileSize];
#pragma GCC unroll 4
          for (int32_t p = 0; p < kTileSize; ++p) share[p] = code == p ? value : Vec{};
#pragma GCC unroll 9
          for (int32_t tap = 0; tap < kSmallTaps; ++tap) {
            const Vec factor = all(weight[tap]);
#pragma GCC unroll 4
            for (int32_t p = 0; p < kTileSize; ++p) {
              Vec& sum = patch[tap / kSmallKernel + p / 2][tap % kSmallKernel + p % 2];
              sum = multiply_add(factor, share[p], sum);
            }
          }
        }
        float* target = in_gradient + int64_t{channel} * to.plane;
#pragma GCC unroll 4
        for (int32_t i = 0; i < kPatchWidth; ++i) {
          const int32_t row = 2 * y - stage.window.padding_h + i;
          if (row < 0 || row >= to.height) continue;
#pragma GCC unroll 4
          for (int32_t j = 0; j < kPatchWidth; ++j) {
            const int32_t column = 2 * x - stage.window.padding_w + j;
            if (column < 0 || column >= to.width) continue;
            float* pixel = target + to.at(row, column);
            store(pixel, load(pixel) + patch[i][j]);
          }
        }
      }
    }
  }
}

// The data gradient from what conv_spread made.
inline void conv_gather(const Network& network, const Stage& stage, int32_t g) {
  float* in_gradient = network.at(stage.in_gradient, g);
  const int64_t plane = stage.in_gradient.plane;
  for (int32_t i = 0; i < stage.num_backward; ++i) {
    run_conv(
        network, network.plan.backward[stage.first_backward + i], stage.spread,
        g, [&](const Tile& tile, int32_t c, const Vec(&sum)[kTileSize]) __attribute__((always_inline)) {
          for (int32_t p = 0; p < kTileSize; ++p) store(in_gradient + c * plane + tile.out[p], sum[p]);
        });
  }
}

inline void conv_backward(const Network& network, const Stage& stage, int32_t g) {
  if (stage.scatter) return conv_scatter(network, stage, g);
  conv_spread(network, stage, g, 0);
  conv_gather(network, stage, g);
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
