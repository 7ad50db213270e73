// Tiles that are hard in different ways, from a fixed random sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "tile.hpp"

struct Random {  // xorshift64*
  uint64_t state;
  uint32_t next() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<uint32_t>((state * 2685821657736338717ull) >> 32);
  }
  uint32_t below(uint32_t n) { return next() % n; }
};

inline constexpr unsigned kTextures = 11;

inline std::vector<uint8_t> make_tile(tilevault::Type type, const tilevault::Shape& shape, unsigned texture, Random& random) {
  const size_t n = shape.samples(), size = tilevault::size_of(type), width = shape.width();
  std::vector<uint8_t> bytes(n * size);
  uint32_t walk = random.next();
  const uint32_t constant = random.next();
  const size_t hot = random.below(static_cast<uint32_t>(n));
  for (size_t i = 0; i < n; ++i) {
    const auto x = static_cast<uint32_t>(i % width), y = static_cast<uint32_t>(i / width);
    uint32_t v = 0;
    const size_t plane = i / (width * shape.height());
    switch (texture) {
      case 0: v = random.next(); break;                                    // noise of full range
      case 1: v = constant; break;
      case 2: v = i == hot ? 0xFFFFFFFFu : 0; break;
      case 3: v = 3 * x + 2 * y; break;                                    // ramp
      case 4: v = walk += random.below(7) - 3u; break;                     // walk
      case 5: v = (x / 8 + y / 8) % 2 != 0 ? 0x7FFFFFFFu : 0x80000000u; break;  // extremes
      case 6: v = random.below(5) * 37; break;                             // few values, with gaps
      case 7: v = random.below(50) == 0 ? random.below(4) : 0; break;      // sparse
      case 9: v = (x / static_cast<uint32_t>(2 + plane % 3)) * 2654435761u + (y / 2) * 40503u; break;  // upsampled by repetition
      case 10: v = (random.below(3) != 0 ? 0x40000000u : 0xC1000000u) + random.below(4000) * 2048; break;  // floats around zero
      default: v = (1000 + x * y / 4 + random.below(9)) & 0xFFFu;          // 12 in 16
    }
    for (size_t b = 0; b < size; ++b) bytes[i * size + b] = static_cast<uint8_t>(v >> (8 * b));
  }
  return bytes;
}
