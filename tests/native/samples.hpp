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

// The frame of a tile that is coded transposed, which encoders choose for few; no colour, not packed.
inline std::vector<uint8_t> transposed_frame(const std::vector<uint8_t>& samples, tilevault::Type type, const tilevault::Shape& shape,
                                             unsigned levels, tilevault::Coder coder) {
  using namespace tilevault;
  const unsigned useful = useful_levels(shape.height(), shape.width(), levels);
  BaseOf middle(type);
  middle.add(samples.data(), shape.samples());
  std::vector<int32_t> words(shape.samples()), turned;
  load_words(type, samples.data(), shape.samples(), middle.base(), words.data());
  transpose_planes(words, shape.planes(), shape.height(), shape.width(), turned);
  std::vector<uint8_t> body, out;
  std::vector<size_t> ends;
  ColourKind kind;
  ResolutionEncoder encoder;
  encoder.start(coded_bands(shape, useful, Order::transposed), Order::transposed, turned.data(), {});
  encoder.write(coder, body, ends, kind);
  frame::put_prefix(out, kWavelet53Transposed, type, shape);
  frame::put_flags(out, useful, false, -1, kind);
  if (size_of(type) == 4)
    for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(middle.base() >> (8 * i)));
  for (unsigned s = 0; s < useful; ++s) frame::put_varint(out, ends[s] - (s != 0 ? ends[s - 1] : 0));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}
