// The checks that all ops on networks share: of images, and of the layer program that takes them.
#pragma once

#include <vector>

#include "common/check.h"
#include "network/program/program.h"

namespace pydrift {

enum class ImageTypes { kFloat, kByteOrFloat };

inline void check_images(const char* op, const char* name, const Tensor& x, ImageTypes types = ImageTypes::kFloat) {
  const bool bytes = types == ImageTypes::kByteOrFloat;
  PYDRIFT_CHECK(x.dim() == 4 && x.is_contiguous() &&
                    (x.scalar_type() == ScalarType::Float || (bytes && x.scalar_type() == ScalarType::Byte)),
                op, ": ", name, " must be [N, C, H, W] ", bytes ? "uint8 or " : "", "float32 and contiguous, got ",
                describe(x));
  const int64_t num_channels = x.size(1), height = x.size(2), width = x.size(3);
  PYDRIFT_CHECK(num_channels >= 1 && height >= 1 && width >= 1 && num_channels <= kMaxValuesPerLayer / height / width,
                op, ": C, H and W must be >= 1 and C * H * W <= ", kMaxValuesPerLayer, ", got ", describe(x));
}

// The program of a network for images like x (checked before).
inline Program check_program(const char* op, const Tensor& x, const std::vector<int64_t>& codes) {
  const LayerShape input{static_cast<int32_t>(x.size(1)), static_cast<int32_t>(x.size(2)),
                         static_cast<int32_t>(x.size(3))};
  return refuse_as(op, [&] { return parse_program(codes.data(), codes.size(), input); });
}

}  // namespace pydrift
