// The 9/7 wavelet (Cohen, Daubechies, Feauveau 1992; lifting: Daubechies, Sweldens 1998) in integers: twelve
// bits of each lifting factor, no scaling of the bands, so that analysis is undone exactly. Sums wrap modulo
// 2^32, on every machine alike.
//
// Rows are analysed first, then columns; even positions make the low band; borders are mirrored.
#pragma once

#include "cpu.hpp"
#include "wavelet.hpp"

namespace tilevault::wavelet97 {

constexpr int32_t kFactors[4] = {-6497, -217, 3616, 1817};
constexpr unsigned kBits = 12;

inline int32_t lift(int32_t factor, int32_t a, int32_t b) {
  const uint32_t sum = static_cast<uint32_t>(a) + static_cast<uint32_t>(b);
  return static_cast<int32_t>(static_cast<uint32_t>(factor) * sum + (1u << (kBits - 1))) >> kBits;
}

template <bool undo>
inline void step(int32_t* t, const int32_t* a, const int32_t* b, int32_t factor, size_t n) {
  for (size_t i = 0; i < n; ++i) t[i] = undo ? lifting::sub(t[i], lift(factor, a[i], b[i])) : lifting::add(t[i], lift(factor, a[i], b[i]));
}

// The neighbours of low[i] are high[i - 1] and high[i], those of high[i] low[i] and low[i + 1].
template <bool undo>
inline void step_low(int32_t* low, const int32_t* high, int32_t factor, size_t nl, size_t nh) {
  step<undo>(low, high, high, factor, 1);
  step<undo>(low + 1, high, high + 1, factor, nh - 1);
  if (nl > nh) step<undo>(low + nh, high + nh - 1, high + nh - 1, factor, 1);
}
template <bool undo>
inline void step_high(int32_t* high, const int32_t* low, int32_t factor, size_t nl, size_t nh) {
  const size_t inner = nl > nh ? nh : nh - 1;
  step<undo>(high, low, low + 1, factor, inner);
  if (inner < nh) step<undo>(high + inner, low + inner, low + inner, factor, 1);
}

template <bool undo>
inline void lift_row(int32_t* low, int32_t* high, size_t nl, size_t nh) {
  if (nh == 0) return;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned s = undo ? 3 - i : i;
    if (s % 2 == 0) {
      step_high<undo>(high, low, kFactors[s], nl, nh);
    } else {
      step_low<undo>(low, high, kFactors[s], nl, nh);
    }
  }
}

// The same between rows of two bands, `width` wide.
template <bool undo>
inline void lift_columns(Rows low, Rows high, size_t nl, size_t nh, size_t width) {
  if (nh == 0) return;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned s = undo ? 3 - i : i;
    if (s % 2 == 0) {
      for (size_t y = 0; y < nh; ++y) step<undo>(high[y], low[y], low[y + 1 < nl ? y + 1 : y], kFactors[s], width);
    } else {
      for (size_t y = 0; y < nl; ++y)
        step<undo>(low[y], high[y == 0 ? 0 : y - 1], high[y < nh ? y : nh - 1], kFactors[s], width);
    }
  }
}

namespace detail {

inline void analyse(Rows x, size_t height, size_t width, Rows ll, Rows hl, Rows lh, Rows hh) {
  const size_t wl = low_size(width), wh = high_size(width);
  for (size_t y = 0; y < height; ++y) {
    const int32_t* from = x[y];
    int32_t* low = (y % 2 == 0 ? ll : lh)[y / 2];
    int32_t* high = (y % 2 == 0 ? hl : hh)[y / 2];
    for (size_t i = 0; i < wh; ++i) {
      low[i] = from[2 * i];
      high[i] = from[2 * i + 1];
    }
    if (wl > wh) low[wh] = from[2 * wh];
    lift_row<false>(low, high, wl, wh);
  }
  lift_columns<false>(ll, lh, low_size(height), high_size(height), wl);
  lift_columns<false>(hl, hh, low_size(height), high_size(height), wh);
}

inline void synthesise(Rows ll, Rows hl, Rows lh, Rows hh, size_t height, size_t width, Rows x) {
  const size_t wl = low_size(width), wh = high_size(width);
  lift_columns<true>(ll, lh, low_size(height), high_size(height), wl);
  lift_columns<true>(hl, hh, low_size(height), high_size(height), wh);
  for (size_t y = 0; y < height; ++y) {
    int32_t* low = (y % 2 == 0 ? ll : lh)[y / 2];
    int32_t* high = (y % 2 == 0 ? hl : hh)[y / 2];
    lift_row<true>(low, high, wl, wh);
    int32_t* to = x[y];
    for (size_t i = 0; i < wh; ++i) {
      to[2 * i] = low[i];
      to[2 * i + 1] = high[i];
    }
    if (wl > wh) to[2 * wh] = low[wh];
  }
}

}  // namespace detail

// One decomposition of x, height x width samples, into its four bands.
inline void analyse(Rows x, size_t height, size_t width, Rows ll, Rows hl, Rows lh, Rows hh) {
  auto kernel = [&] { detail::analyse(x, height, width, ll, hl, lh, hh); };
  run_widest(kernel, kernel);
}

// The inverse; the bands are overwritten.
inline void synthesise(Rows ll, Rows hl, Rows lh, Rows hh, size_t height, size_t width, Rows x) {
  auto kernel = [&] { detail::synthesise(ll, hl, lh, hh, height, width, x); };
  run_widest(kernel, kernel);
}

}  // namespace tilevault::wavelet97
