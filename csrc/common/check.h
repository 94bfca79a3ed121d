// Checks of tensor arguments, and how their messages describe tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <string>

#include "common/refuse.h"

namespace pydrift {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The name Python uses ("float32", where C++ says "Float").
inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(dtype);
  }
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << "[";
  const char* separator = "";
  for (const auto size : sizes) {
    text << separator << size;
    separator = ", ";
  }
  text << "]";
  return text.str();
}

// "[2, 3] float64 on the CPU": what a tensor is, for the end of a message.
inline std::string describe(const Tensor& tensor) {
  const std::string place = tensor.is_cpu() ? "the CPU" : "GPU " + std::to_string(tensor.get_device_index());
  return shape_text(tensor.sizes()) + " " + dtype_name(tensor.scalar_type()) + " on " + place +
         (tensor.is_contiguous() ? "" : ", not contiguous");
}

inline bool on_one_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

inline void check_vector(const char* op, const char* name, const Tensor& values, int64_t size, ScalarType dtype,
                         const Tensor& x) {
  PYDRIFT_CHECK(values.dim() == 1 && values.size(0) == size && values.scalar_type() == dtype &&
                    values.is_contiguous() && on_one_device(values, x),
                op, ": ", name, " must be [", size, "] ", dtype_name(dtype),
                ", contiguous and on the device of x, got ", describe(values));
}

// rows < 0: any number of models
inline void check_matrix(const char* op, const char* name, const Tensor& values, int64_t rows, int64_t columns,
                         ScalarType dtype, const Tensor& x) {
  PYDRIFT_CHECK(values.dim() == 2 && (rows < 0 || values.size(0) == rows) && values.size(1) == columns &&
                    values.scalar_type() == dtype && values.is_contiguous() && on_one_device(values, x),
                op, ": ", name, " must be [", rows < 0 ? std::string("models") : std::to_string(rows), ", ", columns,
                "] ", dtype_name(dtype), ", contiguous and on the device of x, got ", describe(values));
}

}  // namespace pydrift
