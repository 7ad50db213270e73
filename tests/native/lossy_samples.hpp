// A small model of the learned codec, generated: random networks, tables by formula. And a tile to begin with.
#pragma once

#include <cmath>

#include "lossy_tile.hpp"
#include "samples.hpp"

// Writes one network, record by record, as nn.hpp reads it.
struct NetworkWriter {
  std::vector<uint8_t> body;
  unsigned records = 0;

  void number(int64_t v, unsigned bytes) {
    for (unsigned b = 0; b < bytes; ++b) body.push_back(static_cast<uint8_t>(static_cast<uint64_t>(v) >> (8 * b)));
  }
  void record(unsigned kind) {
    ++records;
    number(kind, 1);
  }
  void input(int factor, unsigned channels, int most) {
    record(0);
    number(factor, 1);
    number(channels, 2);
    number(-most, 2);
    number(most, 2);
  }
  // Weights of one byte from -span to span; half of the bounds where `positive`.
  void conv(unsigned source, unsigned size, unsigned in, unsigned out, unsigned shift, int low, int high, int span, Random& random) {
    record(1);
    number(source, 2);
    number(size, 1);
    number(1, 1);
    number(out, 2);
    for (unsigned i = 0; i < out; ++i) number(shift, 1);
    for (unsigned i = 0; i < out; ++i) number(static_cast<int>(random.below(20000)) - 3000, 4);
    for (unsigned i = 0; i < out; ++i) number(low, 2);
    for (unsigned i = 0; i < out; ++i) number(high, 2);
    for (unsigned i = 0; i < out * in * size * size; ++i)
      number(static_cast<int>(random.below(static_cast<uint32_t>(2 * span + 1))) - span, 1);
  }
  void concat(unsigned a, unsigned b) {
    record(4);
    number(a, 2);
    number(b, 2);
  }
  void output(unsigned source, unsigned factor) {
    record(5);
    number(source, 2);
    number(factor, 1);
  }
  std::vector<uint8_t> blob() const {
    std::vector<uint8_t> out{'T', 'V', 'N', 'N', 1, 0, static_cast<uint8_t>(records), 0};
    out.insert(out.end(), body.begin(), body.end());
    return out;
  }
};

inline std::vector<uint8_t> make_model(Random& random) {
  using namespace tilevault::lossy;
  NetworkWriter w;  // for its numbers
  w.body = {'T', 'V', 'L', 'M', 1, 0, 0, 0};
  for (size_t i = 0; i < kLogs; ++i) w.number(std::lround(128 * std::log2(1 + static_cast<double>(i) / 16)), 2);
  for (unsigned i = 0; i < 128; ++i) w.number(std::lround(512 * std::exp2(i / 128.0)), 2);
  for (unsigned i = 0; i < kLevels * kBands + 1; ++i) w.number(16000 >> i / 3 / 2, 2);
  for (unsigned i = 0; i < 256; ++i) w.number(std::min(63u, 12 + i / 6), 1);
  for (unsigned i = 0; i < kScales; ++i) w.number(i / 6, 1);
  for (unsigned row = 0; row < kScales * kFractions; ++row) {
    uint32_t left = 1u << kScaleBits;
    uint16_t n[kTokens];
    for (int t = 0; t < static_cast<int>(kTokens); ++t) {
      const unsigned far = static_cast<unsigned>(std::abs(t - kMostToken)) * (6 - row / kFractions % 6);
      n[t] = static_cast<uint16_t>(t == static_cast<int>(kEscape) ? 9 : far > 12 ? random.below(2) : 8000u >> far);
      left -= n[t];
    }
    n[kMostToken] = static_cast<uint16_t>(n[kMostToken] + left);
    for (const uint16_t v : n) w.number(v, 2);
  }
  for (const unsigned hidden : {8u, 11u}) {
    NetworkWriter first, second;
    first.input(1, 6, 1025);
    first.conv(0, 3, 6, hidden, 8, 0, 1023, 90, random);
    first.output(1, 1);
    first.conv(1, 3, hidden, 6, 10, -100, 100, 127, random);
    first.output(2, 1);
    second.input(1, hidden, 1023);
    second.input(1, 6, 1025);
    second.conv(1, 3, 6, 5, 8, -1023, 1023, 90, random);
    second.concat(0, 2);
    second.conv(3, 1, hidden + 5, 6, 9, -100, 100, 127, random);
    second.output(4, 1);
    for (const NetworkWriter& n : {first, second}) {
      w.number(static_cast<int64_t>(n.blob().size()), 4);
      for (const uint8_t b : n.blob()) w.body.push_back(b);
    }
  }
  NetworkWriter restore;
  restore.input(4, 16, 1023);
  restore.conv(0, 3, 16, 16, 9, -300, 300, 20, random);
  restore.output(1, 4);
  w.number(static_cast<int64_t>(restore.blob().size()), 4);
  for (const uint8_t b : restore.blob()) w.body.push_back(b);
  return w.body;
}

// Of samples of `bits` bits around `offset`; planes resemble each other where `alike`.
inline std::vector<int32_t> make_planes(const tilevault::lossy::TileShape& s, unsigned texture, unsigned bits, int32_t offset, bool alike,
                                        Random& random) {
  tilevault::Shape shape;
  shape.rank = 3;
  shape.extent = {alike ? 1 : s.planes, s.height, s.width};
  const std::vector<uint8_t> bytes = make_tile(tilevault::Type::u32, shape, texture, random);
  std::vector<int32_t> out(s.samples());
  for (size_t i = 0; i < out.size(); ++i) {
    uint32_t v = 0;
    std::memcpy(&v, bytes.data() + 4 * (alike ? i % s.plane() : i), 4);
    const uint32_t most = (1u << bits) - 1;
    v &= most;
    if (alike) v = std::min(v / static_cast<uint32_t>(1 + i / s.plane()) + random.below(2), most);
    out[i] = static_cast<int32_t>(v) + offset;
  }
  return out;
}
