// Counter-based random numbers, the same bits as pydrift.noise on every device. No torch.
//
// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "common/portable.h"

namespace pydrift {

struct PhiloxBlock {
  uint32_t word[4];
};

PYDRIFT_HD PhiloxBlock philox_4x32(PhiloxBlock counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// An integer in [low, high] from one word, by multiply-shift.
PYDRIFT_HD int32_t integer_in(uint32_t word, int32_t low, int32_t high) {
  const uint64_t span = static_cast<uint64_t>(high) - low + 1;
  return low + static_cast<int32_t>((word * span) >> 32);
}

// How far an inversion's image is rolled down and to the right at one step (phase JITTER of pydrift.noise).
struct Shift {
  int32_t down;
  int32_t right;

  PYDRIFT_HD bool any() const { return down != 0 || right != 0; }
};

PYDRIFT_HD Shift jitter_shift(uint64_t seed, int32_t label, int32_t restart, int32_t step, int32_t jitter) {
  constexpr uint32_t kJitterPhase = 2;
  const uint32_t who = static_cast<uint32_t>(label) << 16 | static_cast<uint32_t>(restart);
  const PhiloxBlock bits = philox_4x32({{0, static_cast<uint32_t>(step), who, kJitterPhase << 24}}, seed);
  return {integer_in(bits.word[0], -jitter, jitter), integer_in(bits.word[1], -jitter, jitter)};
}

}  // namespace pydrift
