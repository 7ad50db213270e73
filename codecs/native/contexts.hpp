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
    {22, 9, 4, 4, 14, 0, 0, 0, 0, 8},
    {12, 6, 2, 2, 10, 5, 5, 0, 0, 8},
    {10, 6, 3, 3, 3, 6, 2, 7, 2, 8},
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
  }

  void start(unsigned decomposition, size_t plane, Kind kind) {
    kind_ = kind;
    band_ = tile_.band(decomposition, plane, kind);
    parent_band_ = hl_band_ = lh_band_ = plane_band_ = Band{0, 0, 0};
    if (kind != kLL && decomposition < tile_.levels) parent_band_ = tile_.band(decomposition + 1, plane, kind);
    if (kind == kLH || kind == kHH) hl_band_ = tile_.band(decomposition, plane, kHL);
    if (kind == kHH) lh_band_ = tile_.band(decomposition, plane, kLH);
    if (plane != 0) plane_band_ = tile_.band(decomposition, plane - 1, kind);
    for (MagnitudeRow* row : {&n_, &nn_, &parent_, &plane_}) row->clear();
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
    if (parent_band_.width != 0 && (y & 1) == 0) load_parent(y / 2);
    if (hl_band_.width != 0) next_sibling(hl_, hl_below_, hl_band_, y);
    if (lh_band_.width != 0) next_sibling(lh_, lh_below_, lh_band_, y);
    if (plane_band_.width != 0) load(plane_, plane_band_, y);
    switch (kind_) {
      case kLL: return classify<kLL>(width, out);
      case kHL: return classify<kHL>(width, out);
      case kLH: return classify<kLH>(width, out);
      default: return classify<kHH>(width, out);
    }
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
  void next_sibling(MagnitudeRow& at, MagnitudeRow& below, const Band& band, size_t y) {
    swap(at, below);
    load(below, band, y + 1);
  }

  // The class of each energy. Energy 0 is class 0; 2^k is class 2k + 1, 1.5 * 2^k is class 2k + 2: exponent
  // and top mantissa bit of the float32, which holds every energy exactly. Rows that do not exist are zero.
  template <Kind kind>
  void classify(size_t width, uint8_t* out) const {
    constexpr Weights w = kWeights[kind];
    const int32_t *n = n_.begin(), *nn = nn_.begin(), *parent = parent_.begin(), *plane = plane_.begin();
    const int32_t *hl = hl_.begin(), *hl_below = hl_below_.begin(), *lh = lh_.begin(), *lh_below = lh_below_.begin();
    for (size_t x = 0; x < width; ++x) {
      int32_t e = w.n * n[x] + w.nw_ne * (n[x - 1] + n[x + 1]) + w.nn * nn[x] + w.nww_nee * (n[x - 2] + n[x + 2]);
      e += w.plane * plane[x];
      if (kind != kLL) e += w.parent * parent[x];
      if (kind == kLH || kind == kHH) e += w.hl * hl[x] + w.hl_around * (hl[x - 1] + hl[x + 1] + hl_below[x]);
      if (kind == kHH) e += w.lh * lh[x] + w.lh_around * (lh[x - 1] + lh[x + 1] + lh_below[x]);
      const auto f = static_cast<float>(e);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      const uint32_t c = std::max(bits >> 22, 253u) - 253u;  // bits >> 22 is 254 for 1.0, 0 for 0.0
      out[x] = static_cast<uint8_t>(kind * kClasses + c);
    }
  }

  const Subbands tile_;
  const int32_t* c_;
  Kind kind_ = kLL;
  Band band_{}, parent_band_{}, hl_band_{}, lh_band_{}, plane_band_{};
  MagnitudeRow n_, nn_, parent_, hl_, hl_below_, lh_, lh_below_, plane_;
};

}  // namespace tilevault
