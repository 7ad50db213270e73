// Where the coefficients of a tile lie: in the order of the stream, so that a prefix of the stream
// fills a prefix of the buffer.
//
// Segment 0 holds LL of the last decomposition of each plane; segment s > 0 holds HL, LH, HH of
// decomposition levels - s + 1, plane by plane. The first s + 1 segments give the tile at reduce = levels - s.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "wavelet.hpp"

namespace tilevault {

constexpr unsigned kMaxLevels = 15;

enum Kind : unsigned { kLL, kHL, kLH, kHH, kKinds };  // HL: high along x, low along y

struct Band {
  size_t height, width;
  size_t offset;  // of its first coefficient
};

struct Subbands {
  size_t planes, height, width;
  unsigned levels;

  size_t height_at(unsigned k) const { return ((height - 1) >> k) + 1; }
  size_t width_at(unsigned k) const { return ((width - 1) >> k) + 1; }
  size_t plane_size(unsigned k) const { return height_at(k) * width_at(k); }

  // Coefficients of the first count segments.
  size_t prefix(unsigned count) const { return count == 0 ? 0 : planes * plane_size(levels + 1 - count); }

  // decomposition: 1..levels, or levels for LL.
  Band band(unsigned decomposition, size_t plane, Kind kind) const {
    if (kind == kLL) return {height_at(levels), width_at(levels), plane * plane_size(levels)};
    const size_t h = height_at(decomposition - 1), w = width_at(decomposition - 1);
    const size_t ll = plane_size(decomposition);
    size_t at = prefix(levels - decomposition + 1) + plane * (h * w - ll);
    if (kind == kHL) return {low_size(h), high_size(w), at};
    at += low_size(h) * high_size(w);
    if (kind == kLH) return {high_size(h), low_size(w), at};
    at += high_size(h) * low_size(w);
    return {high_size(h), high_size(w), at};
  }
};

// Decompositions that still split something: more would only hand one sample on.
inline unsigned useful_levels(size_t height, size_t width, unsigned wanted) {
  unsigned levels = 0;
  while (levels < wanted && (((height - 1) >> levels) != 0 || ((width - 1) >> levels) != 0)) ++levels;
  return levels;
}

}  // namespace tilevault
