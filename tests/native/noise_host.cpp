// csrc/common/philox.h for ctypes.
#include "common/philox.h"

using namespace pydrift;

// counters, blocks [count, 4]
extern "C" void philox_blocks(const PhiloxBlock* counters, int32_t count, uint64_t seed, PhiloxBlock* blocks) {
  for (int32_t i = 0; i < count; ++i) blocks[i] = philox_4x32(counters[i], seed);
}

// labels, restarts, steps [count]; shifts [count, 2]
extern "C" void jitter_shifts(uint64_t seed, const int32_t* labels, const int32_t* restarts, const int32_t* steps,
                              int32_t count, int32_t jitter, Shift* shifts) {
  for (int32_t i = 0; i < count; ++i) shifts[i] = jitter_shift(seed, labels[i], restarts[i], steps[i], jitter);
}
