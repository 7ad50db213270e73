// The context of a coefficient: how large it is likely to be, from what the decoder knows before its row
// begins: rows above, bands before, and LL of the same decomposition, which shows texture to the right and
// below as well. No context needs a coefficient of its own row, so a row's contexts are one vectorised
// pass and the entropy coder never waits for them.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "subbands.hpp"

namespace tilevault {

constexpr unsigned kClasses = 45;                   // energy 0, then half octaves up to 2^22
constexpr unsigned kContexts = kKinds * kClasses;
constexpr uint32_t kMagnitudeCap = 32767;           // keeps every energy below 2^22, exact as float32

inline uint32_t magnitude(int32_t v) {
  return std::min(v < 0 ? 0u - static_cast<uint32_t>(v) : static_cast<uint32_t>(v), kMagnitudeCap);
}

// Magnitudes of one band with zeros all around.
class Magnitudes {
 public:
  static constexpr size_t kAbove = 2, kBelow = 1, kBeside = 4;
  void reset(size_t height, size_t width) {
    stride_ = width + 2 * kBeside;
    const size_t size = (height + kAbove + kBelow) * stride_;
    if (m_.size() < size) m_.resize(size);
    std::fill_n(m_.begin(), kAbove * stride_, uint16_t{0});
    std::fill_n(m_.begin() + (kAbove + height) * stride_, kBelow * stride_, uint16_t{0});
    for (size_t y = 0; y < height; ++y) {
      std::fill_n(row(y) - kBeside, kBeside, uint16_t{0});
      std::fill_n(row(y) + width, kBeside, uint16_t{0});
    }
  }
  uint16_t* row(size_t y) { return m_.data() + (y + kAbove) * stride_ + kBeside; }
  // y may be -2 to height.
  const uint16_t* near(size_t y, int dy) const {
    return m_.data() + static_cast<size_t>(static_cast<std::ptrdiff_t>(y + kAbove) + dy) * stride_ + kBeside;
  }

 private:
  std::vector<uint16_t> m_;
  size_t stride_ = 0;
};

// LL of one plane; each row goes on with its last sample to the right, with its first one to the left.
class LowBand {
 public:
  static constexpr size_t kLeft = 1, kRight = 2;
  static size_t stride(size_t width) { return width + kLeft + kRight; }
  static size_t size(size_t height, size_t width) { return height * stride(width); }

  LowBand() = default;
  LowBand(int32_t* at, size_t height, size_t width) : at_(at + kLeft), height_(height), width_(width) {}

  int32_t* operator[](size_t y) const { return at_ + y * stride(width_); }
  // Rows beyond the band are its first or last one.
  const int32_t* near(size_t y, int dy) const {
    const auto at = static_cast<std::ptrdiff_t>(y) + dy;
    return (*this)[static_cast<size_t>(std::clamp<std::ptrdiff_t>(at, 0, static_cast<std::ptrdiff_t>(height_) - 1))];
  }
  size_t height() const { return height_; }
  size_t width() const { return width_; }

  // After row y was written.
  void close(size_t y) const {
    int32_t* row = (*this)[y];
    row[-1] = row[0];
    row[width_] = row[width_ + 1] = row[width_ - 1];
  }

 private:
  int32_t* at_ = nullptr;
  size_t height_ = 0, width_ = 0;
};

// The bands of one decomposition, plane after plane, or LL of the last one.
class ContextRows {
 public:
  void resize(size_t planes) { planes_.resize(planes); }

  void start(const Subbands& tile, unsigned decomposition, bool low) {
    for (auto& plane : planes_)
      for (unsigned k = low ? kLL : kHL; k <= (low ? kLL : kHH); ++k) {
        const Band band = tile.band(decomposition, 0, static_cast<Kind>(k));
        plane[k].reset(band.height, band.width);
      }
    const size_t w = tile.width_at(decomposition);
    nothing_.assign(w, 0);
    for (Texture& row : texture_) row.resize(w + 2);
  }

  // reference: an earlier plane whose magnitudes tell something, or -1.
  void select(size_t plane, int reference) {
    now_ = &planes_[plane];
    before_ = reference >= 0 ? &planes_[static_cast<size_t>(reference)] : nullptr;
  }

  Magnitudes& magnitudes(Kind kind) { return (*now_)[kind]; }

  // Classes of row y into out; rows come in order, and row y - 1's magnitudes are known.
  void classes(Kind kind, const LowBand& ll, size_t y, size_t width, uint8_t* out) {
    switch (kind) {
      case kLL: return classify<kLL>(ll, y, width, out);
      case kHL: return classify<kHL>(ll, y, width, out);
      case kLH: return classify<kLH>(ll, y, width, out);
      default: return classify<kHH>(ll, y, width, out);
    }
  }

 private:
  using Texture = std::vector<int32_t>;
  using Row = const uint16_t*;

  static int32_t bend(int32_t a, int32_t b, int32_t c) {
    return static_cast<int32_t>(magnitude(lifting::sub(lifting::add(a, c), lifting::add(b, b))));
  }
  static int32_t step(int32_t a, int32_t b) { return static_cast<int32_t>(magnitude(lifting::sub(a, b))); }

  // How much a row of LL bends at and right of each place.
  static void bend_along(const int32_t* l, size_t width, int32_t* __restrict out) {
    const auto n = static_cast<std::ptrdiff_t>(width);
    for (std::ptrdiff_t x = 0; x < n; ++x) out[x] = bend(l[x - 1], l[x], l[x + 1]) + bend(l[x], l[x + 1], l[x + 2]);
  }
  // The same of columns, at row y and below; one place more on both sides.
  static void bend_down(const LowBand& ll, size_t y, size_t width, int32_t* __restrict out) {
    const int32_t *a = ll.near(y, -1) - 1, *b = ll.near(y, 0) - 1, *c = ll.near(y, 1) - 1, *d = ll.near(y, 2) - 1;
    for (size_t x = 0; x < width + 2; ++x) out[x] = bend(a[x], b[x], c[x]) + bend(b[x], c[x], d[x]);
  }

  // The class of each energy. Energy 0 is class 0; 2^k is class 2k + 1, 1.5 * 2^k is class 2k + 2: exponent
  // and top mantissa bit of the float32, which holds every energy exactly. The weights are least-squares fits
  // of |coefficient| over medical tiles.
  template <Kind kind>
  void classify(const LowBand& ll, size_t y, size_t width, uint8_t* __restrict out) {
    const Magnitudes &own = (*now_)[kind], &hl = (*now_)[kHL], &lh = (*now_)[kLH];
    const Row n = own.near(y, -1), nn = own.near(y, -2), q = before_ != nullptr ? (*before_)[kind].near(y, 0) : nothing_.data();
    Row h = nullptr, below_h = nullptr, v = nullptr, below_v = nullptr;
    if constexpr (kind == kLH || kind == kHH) h = hl.near(y, 0), below_h = hl.near(y, 1);
    if constexpr (kind == kHH) v = lh.near(y, 0), below_v = lh.near(y, 1);
    const int32_t *l = nullptr, *below_l = nullptr, *t = texture_[1].data(), *above_t = texture_[0].data(), *below_t = texture_[2].data();
    if constexpr (kind == kHL) {
      if (y == 0) bend_along(ll.near(0, 0), width, texture_[1].data()), texture_[0] = texture_[1];
      else std::swap(texture_[0], texture_[1]), std::swap(texture_[1], texture_[2]);
      bend_along(ll.near(y, 1), width, texture_[2].data());
      above_t = texture_[0].data(), t = texture_[1].data(), below_t = texture_[2].data();
      l = ll.near(y, 0);
    }
    if constexpr (kind == kLH) bend_down(ll, y, width, texture_[1].data());
    if constexpr (kind == kHH) l = ll.near(y, 0), below_l = ll.near(y, 1);
    for (size_t i = 0; i < width; ++i) {
      const auto x = static_cast<std::ptrdiff_t>(i);
      int32_t e = 8 * q[x];
      if constexpr (kind == kLL) e += 26 * n[x] + 10 * (n[x - 1] + n[x + 1]) + 4 * nn[x] + 2 * (n[x - 2] + n[x + 2]);
      if constexpr (kind == kHL) {
        e += 27 * n[x] + 8 * (n[x - 1] + n[x + 1]) + 10 * nn[x] + 3 * (n[x - 2] + n[x + 2]);
        e += step(l[x], l[x + 1]) + 4 * t[x] + 3 * (above_t[x] + below_t[x]);
      }
      if constexpr (kind == kLH) {
        e += 18 * n[x] + 13 * (n[x - 1] + n[x + 1]) + 9 * (n[x - 2] + n[x + 2]);
        e += 10 * h[x] + 5 * (h[x - 1] + h[x + 1]) + 3 * t[x + 1] + 2 * (t[x] + t[x + 2]);
      }
      if constexpr (kind == kHH) {
        e += 7 * n[x] + 5 * (n[x - 1] + n[x + 1]) + 3 * nn[x] + 2 * (n[x - 2] + n[x + 2]);
        e += 7 * h[x] + 2 * (h[x - 1] + h[x + 1]) + 10 * below_h[x];
        e += 9 * v[x] + 5 * (v[x - 1] + v[x + 1]) + 4 * below_v[x];
        e += 6 * static_cast<int32_t>(magnitude(lifting::sub(lifting::sub(l[x], l[x + 1]), lifting::sub(below_l[x], below_l[x + 1]))));
      }
      const auto f = static_cast<float>(e);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      const uint32_t c = std::max(bits >> 22, 253u) - 253u;  // bits >> 22 is 254 for 1.0, 0 for 0.0
      out[i] = static_cast<uint8_t>(c);
    }
  }

  std::vector<std::array<Magnitudes, kKinds>> planes_;
  std::vector<uint16_t> nothing_;
  std::array<Magnitudes, kKinds>*now_ = nullptr, *before_ = nullptr;
  std::array<Texture, 3> texture_;
};

}  // namespace tilevault
