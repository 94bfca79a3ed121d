// A network and its memory, with one restart per lane. No torch.
#pragma once

#include "network/cpu/lanes.h"
#include "network/program/plan.h"

namespace pydrift {
namespace PYDRIFT_LANES {

// A network and the memory of one thread for it.
struct Network {
  const PlanView& plan;
  const float* weights;  // packed
  float* shared;         // [Plan::shared_floats]
  float* group;          // [Plan::group_floats], borders zero; used by one group after the other, or
  uint8_t* codes;        // [kMaxGroups][Plan::code_bytes]
  int64_t code_bytes;
  int64_t group_stride = 0;  // [kMaxGroups][group_stride], where each group's maps must outlive the pass

  // The origin of a map as group `g` sees it.
  PYDRIFT_INLINE float* at(const Map& map, int32_t g) const {
    return map.all_groups ? shared + map.base + g * kLanes : group + map.base + g * group_stride;
  }
  // Room for Winograd's transformed patches, which do not outlive a pass.
  PYDRIFT_INLINE float* patches() const { return group + plan.patches; }
  PYDRIFT_INLINE uint8_t* codes_of(const Stage& stage, int32_t g) const {
    return stage.codes < 0 ? nullptr : codes + g * code_bytes + stage.codes;
  }
};

// function(offset in map `a`, offset in map `b`, channel, number of the element) for all elements of two equal shapes
template <class Function>
PYDRIFT_INLINE void for_each_element(const Map& a, const Map& b, Function function) {
  int64_t number = 0;
  for (int32_t c = 0; c < a.channels; ++c) {
    const int64_t plane_a = int64_t{c} * a.plane, plane_b = int64_t{c} * b.plane;
    for (int32_t y = 0; y < a.height; ++y) {
      for (int32_t x = 0; x < a.width; ++x, ++number) function(plane_a + a.at(y, x), plane_b + b.at(y, x), c, number);
    }
  }
}

// Images of one group without gaps.
inline Map dense_map(const LayerShape& image) {
  Map map;
  map.channels = image.channels, map.height = image.height, map.width = image.width;
  map.pitch = kLanes, map.row = image.width * kLanes, map.plane = image.height * map.row;
  return map;
}

// A network's input, or its gradient, as such images: where the network begins flat, its map is one column.
inline Map image_map(const Map& map, const LayerShape& image) {
  Map shaped = map;
  shaped.channels = image.channels, shaped.height = image.height, shaped.width = image.width;
  if (map.all_groups) shaped.row = image.width * map.pitch, shaped.plane = image.height * shaped.row;
  return shaped;
}

PYDRIFT_INLINE void fill_zero(const Network& network, const Map& map, int32_t g) {
  float* values = network.at(map, g);
  for_each_element(map, map, [&](int64_t at, int64_t, int32_t, int64_t) { store(values + at, Vec{}); });
}

PYDRIFT_INLINE IntVec same_code(int32_t code) { return code - IntVec{}; }

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
