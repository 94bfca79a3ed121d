// Images rolled by shifts that differ from lane to lane. No torch.
#pragma once

#include "network/cpu/network_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// The different shifts of the lanes along one axis, each in [0, size).
struct LaneShifts {
  IntVec of_lane;
  int32_t values[kLanes];
  int32_t num_values;

  PYDRIFT_INLINE LaneShifts(IntVec shifts, int32_t size) : num_values(0) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const int32_t shift = (shifts[lane] % size + size) % size;
      of_lane[lane] = shift;
      int32_t i = 0;
      while (i < num_values && values[i] != shift) ++i;
      if (i == num_values) values[num_values++] = shift;
    }
  }

  PYDRIFT_INLINE bool any() const { return num_values > 1 || values[0] != 0; }

  // The vectors of a row, each lane of which comes from the row at(its shift); store_at(x) says where they go.
  template <class At, class StoreAt>
  PYDRIFT_INLINE void gather_row(int32_t width, int32_t pitch, At at, StoreAt store_at) const {
    switch (num_values) {  // the usual numbers unrolled: a jitter of up to 2 pixels has 5 shifts
      case 1:
        return gather_row<1>(width, pitch, at, store_at);
      case 2:
        return gather_row<2>(width, pitch, at, store_at);
      case 3:
        return gather_row<3>(width, pitch, at, store_at);
      case 4:
        return gather_row<4>(width, pitch, at, store_at);
      case 5:
        return gather_row<5>(width, pitch, at, store_at);
      default:
        return gather_row<kLanes>(width, pitch, at, store_at);
    }
  }

 private:
  template <int32_t kMost, class At, class StoreAt>
  PYDRIFT_INLINE void gather_row(int32_t width, int32_t pitch, At at, StoreAt store_at) const {
    const int32_t count = kMost < kLanes ? kMost : num_values;
    const float* rows[kMost];
    IntVec shifts[kMost];
    for (int32_t i = 0; i < count; ++i) rows[i] = at(values[i]), shifts[i] = values[i] - IntVec{};
    const IntVec wanted = of_lane;
    for (int32_t x = 0; x < width; ++x) {
      Vec value = load(rows[0] + x * pitch);
#pragma GCC unroll 5
      for (int32_t i = 1; i < count; ++i) value = wanted == shifts[i] ? load(rows[i] + x * pitch) : value;
      store_at(x, value);
    }
  }
};

// to[c][y][x] = from[c][y - down][x - right], around the borders. line: [2 * width] vectors, overwritten
inline void roll(const float* from, const Map& from_map, float* to, const Map& to_map, IntVec down, IntVec right,
                 float* line) {
  const int32_t height = from_map.height, width = from_map.width;
  const LaneShifts rows(down, height), columns(right, width);
  if (!rows.any() && !columns.any()) {
    for_each_element(from_map, to_map, [&](int64_t source, int64_t target, int32_t, int64_t) {
      store(to + target, load(from + source));
    });
    return;
  }
  for (int32_t c = 0; c < from_map.channels; ++c) {
    const float* plane = from + int64_t{c} * from_map.plane;
    float* target_plane = to + int64_t{c} * to_map.plane;
    for (int32_t y = 0; y < height; ++y) {
      rows.gather_row(
          width, from_map.pitch,
          [&](int32_t shift) { return plane + from_map.at(y < shift ? y - shift + height : y - shift, 0); },
          [&](int32_t x, Vec value) __attribute__((always_inline)) {
            store(line + x * kLanes, value);
            store(line + (width + x) * kLanes, value);  // twice, so that no column wraps
          });
      float* target = target_plane + to_map.at(y, 0);
      columns.gather_row(
          width, kLanes, [&](int32_t shift) { return line + (width - shift) * kLanes; },
          [&](int32_t x, Vec value) __attribute__((always_inline)) { store(target + x * to_map.pitch, value); });
    }
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
