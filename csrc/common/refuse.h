// Refusals with a sentence that tells the caller what to change. They are a ValueError in Python. No torch.
#pragma once

#include <cstdint>
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

// What make() returns; a refusal in it gets the op's name in front.
template <class Make>
auto refuse_as(const char* op, Make make) {
  try {
    return make();
  } catch (const std::invalid_argument& error) {
    refuse(op, ": ", error.what());
  }
}

// `ids` [count] in host memory.
inline void check_range(const char* op, const char* name, const int32_t* ids, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    PYDRIFT_CHECK(ids[i] >= 0 && ids[i] < limit, op, ": ", name, " must be in [0, ", limit, "), got ", ids[i],
                  " at index ", i);
  }
}

}  // namespace pydrift
