// Refusals with sentences a caller can act on; ValueError in Python. No torch.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace pydrift {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

// The message is built only when the check fails.
#define PYDRIFT_CHECK(condition, ...) \
  do {                                \
    if (!(condition)) {               \
      ::pydrift::refuse(__VA_ARGS__); \
    }                                 \
  } while (0)

}  // namespace pydrift
