// The context of a coefficient: how large its neighbourhood is, as far as the decoder knows it before
// the row begins. No context needs a coefficient of its own row, so a row's contexts are one
// vectorised pass and the entropy coder never waits for them.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "subbands.hpp"

namespace tilevault {

constexpr unsigned kClasses = 45;                   // energy 0, then half octaves up to 2^22
constexpr unsigned kContexts = kKinds * kClasses;
constexpr int32_t kMagnitudeCap = 32767;            // keeps every energy below 2^22, exact as float32

// Weights of the magnitudes in the energy, least-squares fits of |coefficient| over medical tiles.
struct Weights {
  int32_t n, nw_ne, nn, nww_nee, parent;
  int32_t hl, hl_around, lh, lh_around;  // siblings at the same place, and W + E + S of it
  int32_t plane;                         // same band and place in the plane before
};
constexpr Weights kWeights[kKinds] = {
    {26, 10, 4, 2, 0, 0, 0, 0, 0, 8},
    {26, 8, 2, 3, 12, 0, 0, 0, 0, 8},
    {10, 4, 1, 1, 17, 5, 5, 0, 0, 8},
    {11, 7, 2, 2, 2, 7, 1, 8, 1, 8},
};

// Magnitudes of one row with kPad zeros on both sides.
class MagnitudeRow {
 public:
  static constexpr size_t kPad = 2;
  void resize(size_t width) { m_.assign(width + 2 * kPad, 0); }
  void clear() { std::fill(m_.begin(), m_.end(), 0); }
  const int32_t* begin() const { return m_.data() + kPad; }
  int32_t* begin() { return m_.data() + kPad; }

  // The row's own width may be smaller than what is asked for; the rest is zero.
  void load(const int32_t* row, size_t n, size_t width) {
    int32_t* out = begin();
    n = std::min(n, width);
    for (size_t x = 0; x < n; ++x) out[x] = magnitude(row[x]);
    for (size_t x = n; x < width + kPad; ++x) out[x] = 0;
  }
  // Each magnitude twice.
  void load_doubled(const int32_t* row, size_t n, size_t width) {
    int32_t* out = begin();
    for (size_t x = 0; x < n && 2 * x < width; ++x) out[2 * x] = out[2 * x + 1] = magnitude(row[x]);
    for (size_t x = std::min(2 * n, width); x < width + kPad; ++x) out[x] = 0;
  }
  friend void swap(MagnitudeRow& a, MagnitudeRow& b) { a.m_.swap(b.m_); }

 private:
  static int32_t magnitude(int32_t v) {
    const uint32_t m = v < 0 ? 0u - static_cast<uint32_t>(v) : static_cast<uint32_t>(v);
    return static_cast<int32_t>(std::min(m, static_cast<uint32_t>(kMagnitudeCap)));
  }
  std::vector<int32_t> m_;
};

// Walks down one band after another and gives each row's contexts.
class ContextRows {
 public:
  ContextRows(const Subbands& tile, const int32_t* coefficients) : tile_(tile), c_(coefficients) {
    const size_t width = tile.width + 1;
    for (MagnitudeRow* row : {&n_, &nn_, &parent_, &hl_, &hl_below_, &lh_, &lh_below_, &plane_}) row->resize(width);
    energy_.resize(width);
  }

  void start(unsigned decomposition, size_t plane, Kind kind) {
    kind_ = kind;
    band_ = tile_.band(decomposition, plane, kind);
    w_ = kWeights[kind];
    parent_band_ = hl_band_ = lh_band_ = plane_band_ = Band{0, 0, 0};
    if (kind != kLL && decomposition < tile_.levels) parent_band_ = tile_.band(decomposition + 1, plane, kind);
    if (kind == kLH || kind == kHH) hl_band_ = tile_.band(decomposition, plane, kHL);
    if (kind == kHH) lh_band_ = tile_.band(decomposition, plane, kLH);
    if (plane != 0) plane_band_ = tile_.band(decomposition, plane - 1, kind);
    n_.clear();
    nn_.clear();
    load(hl_below_, hl_band_, 0);
    load(lh_below_, lh_band_, 0);
  }

  const Band& band() const { return band_; }

  // Contexts of row y into out; rows come in order, and row y - 1 is complete.
  void contexts(size_t y, uint8_t* out) {
    const size_t width = band_.width;
    if (y != 0) {
      swap(n_, nn_);
      n_.load(c_ + band_.offset + (y - 1) * width, width, width);
    }
    const int32_t *n = n_.begin(), *nn = nn_.begin();
    int32_t* e = energy_.data();
    for (size_t x = 0; x < width; ++x)
      e[x] = w_.n * n[x] + w_.nw_ne * (n[x - 1] + n[x + 1]) + w_.nn * nn[x] + w_.nww_nee * (n[x - 2] + n[x + 2]);
    if (parent_band_.width != 0) {
      if ((y & 1) == 0) load_parent(y / 2);
      const int32_t* p = parent_.begin();
      for (size_t x = 0; x < width; ++x) e[x] += w_.parent * p[x];
    }
    if (hl_band_.width != 0) add_sibling(hl_, hl_below_, hl_band_, y, w_.hl, w_.hl_around);
    if (lh_band_.width != 0) add_sibling(lh_, lh_below_, lh_band_, y, w_.lh, w_.lh_around);
    if (plane_band_.width != 0) {
      load(plane_, plane_band_, y);
      const int32_t* p = plane_.begin();
      for (size_t x = 0; x < width; ++x) e[x] += w_.plane * p[x];
    }
    classify(width, out);
  }

 private:
  void load(MagnitudeRow& row, const Band& band, size_t y) {
    if (y < band.height) {
      row.load(c_ + band.offset + y * band.width, band.width, band_.width);
    } else {
      row.load(nullptr, 0, band_.width);
    }
  }
  void load_parent(size_t y) {
    const bool inside = y < parent_band_.height;
    parent_.load_doubled(c_ + parent_band_.offset + y * parent_band_.width, inside ? parent_band_.width : 0, band_.width);
  }
  void add_sibling(MagnitudeRow& at, MagnitudeRow& below, const Band& band, size_t y, int32_t centre, int32_t around) {
    swap(at, below);
    load(below, band, y + 1);
    const int32_t *s = at.begin(), *b = below.begin();
    int32_t* e = energy_.data();
    for (size_t x = 0; x < band_.width; ++x) e[x] += centre * s[x] + around * (s[x - 1] + s[x + 1] + b[x]);
  }
  // Energy 0 is class 0; 2^k is class 2k + 1, 1.5 * 2^k is class 2k + 2: exponent and top mantissa bit
  // of the float32, which holds every energy exactly.
  void classify(size_t width, uint8_t* out) {
    const int32_t* e = energy_.data();
    const auto first = static_cast<uint8_t>(kind_ * kClasses);
    for (size_t x = 0; x < width; ++x) {
      const float f = static_cast<float>(e[x]);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      const uint32_t c = bits >> 22;  // 254 for 1.0
      out[x] = static_cast<uint8_t>(first + (c > 253 ? c - 253 : 0));
    }
  }

  const Subbands tile_;
  const int32_t* c_;
  Kind kind_ = kLL;
  Band band_{}, parent_band_{}, hl_band_{}, lh_band_{}, plane_band_{};
  Weights w_{};
  MagnitudeRow n_, nn_, parent_, hl_, hl_below_, lh_, lh_below_, plane_;
  std::vector<int32_t> energy_;
};

}  // namespace tilevault
