// The reversible 5/3 wavelet of JPEG 2000 (ISO/IEC 15444-1 Annex F), modulo 2^32, one plane at a time,
// row by row: a sliding window of three rows stays in the first cache whatever the plane's size.
//
// Even positions make the low band. Columns are analysed first, then rows; synthesis runs backwards. Of a plane
// that is given transposed (Order::transposed), rows are the columns of the plane and come first likewise: the
// bands are the same ones, transposed, HL and LH exchanged.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstddef>

namespace tilevault {

inline size_t low_size(size_t n) { return n - n / 2; }
inline size_t high_size(size_t n) { return n / 2; }

namespace lifting {

// Sums wrap like unsigned words and shift like signed ones, on every machine.
inline int32_t half(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)) >> 1;
}
inline int32_t quarter(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b) + 2u) >> 2;
}
inline int32_t add(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
inline int32_t sub(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

// One row apart into low and high.
inline void analyse_row(const int32_t* x, size_t n, int32_t* low, int32_t* high) {
  const size_t nl = low_size(n), nh = high_size(n);
  if (nh == 0) {
    if (n != 0) low[0] = x[0];
    return;
  }
  for (size_t i = 0; i < nh; ++i) {
    low[i] = x[2 * i];
    high[i] = x[2 * i + 1];
  }
  if (nl > nh) low[nl - 1] = x[n - 1];
  const size_t inner = nl > nh ? nh : nh - 1;
  for (size_t i = 0; i < inner; ++i) high[i] = sub(high[i], half(low[i], low[i + 1]));
  if (nl == nh) high[nh - 1] = sub(high[nh - 1], half(low[nl - 1], low[nl - 1]));
  low[0] = add(low[0], quarter(high[0], high[0]));
  for (size_t i = 1; i < nh; ++i) low[i] = add(low[i], quarter(high[i - 1], high[i]));
  if (nl > nh) low[nl - 1] = add(low[nl - 1], quarter(high[nh - 1], high[nh - 1]));
}

// One row together again. even: scratch of low_size(n) + 1.
inline void synthesise_row(const int32_t* low, const int32_t* high, size_t n, int32_t* x, int32_t* even) {
  const size_t nl = low_size(n), nh = high_size(n);
  if (nh == 0) {
    if (n != 0) x[0] = low[0];
    return;
  }
  even[0] = sub(low[0], quarter(high[0], high[0]));
  for (size_t i = 1; i < nh; ++i) even[i] = sub(low[i], quarter(high[i - 1], high[i]));
  if (nl > nh) even[nl - 1] = sub(low[nl - 1], quarter(high[nh - 1], high[nh - 1]));
  else even[nl] = even[nl - 1];
  for (size_t i = 0; i < nh; ++i) {
    x[2 * i] = even[i];
    x[2 * i + 1] = add(high[i], half(even[i], even[i + 1]));
  }
  if (nl > nh) x[n - 1] = even[nl - 1];
}

}  // namespace lifting

enum class Order { plain, transposed };

namespace lifting {

// What happens to a row before columns are lifted, and after.
template <Order order>
void before_columns(const int32_t* x, size_t n, int32_t* out) {
  if constexpr (order == Order::plain) {
    std::copy_n(x, n, out);
  } else {
    analyse_row(x, n, out, out + low_size(n));
  }
}
template <Order order>
void after_columns(const int32_t* x, size_t n, int32_t* low, int32_t* high) {
  if constexpr (order == Order::plain) {
    analyse_row(x, n, low, high);
  } else {
    std::copy_n(x, low_size(n), low);
    std::copy_n(x + low_size(n), high_size(n), high);
  }
}
// The inverses; scratch: n + 1 words.
template <Order order>
void undo_after_columns(const int32_t* low, const int32_t* high, size_t n, int32_t* x, int32_t* scratch) {
  if constexpr (order == Order::plain) {
    synthesise_row(low, high, n, x, scratch);
  } else {
    std::copy_n(low, low_size(n), x);
    std::copy_n(high, high_size(n), x + low_size(n));
  }
}
template <Order order>
const int32_t* undo_before_columns(const int32_t* x, size_t n, int32_t* out, int32_t* scratch) {
  if constexpr (order == Order::plain) {
    return x;
  } else {
    synthesise_row(x, x + low_size(n), n, out, scratch);
    return out;
  }
}

}  // namespace lifting

struct Rows {  // a view of a plane's rows
  int32_t* at;
  size_t stride;
  int32_t* operator[](size_t y) const { return at + y * stride; }
};

// One decomposition of height x width samples. source(y) is a row of samples; the four bands
// go where ll, hl, lh, hh point. scratch: 5 * width words. Rows of ll may be those of earlier samples.
template <Order order = Order::plain, class Source>
void analyse(size_t height, size_t width, Source&& source, Rows ll, Rows hl, Rows lh, Rows hh, int32_t* scratch) {
  using namespace lifting;
  const size_t nh = high_size(height);
  int32_t* even = scratch;
  int32_t* odd = even + width;
  int32_t* next = odd + width;
  int32_t* before = next + width;  // the high row above
  int32_t* low = before + width;
  before_columns<order>(source(0), width, even);
  if (nh == 0) {
    after_columns<order>(even, width, ll[0], hl[0]);
    return;
  }
  for (size_t i = 0; i < nh; ++i) {
    before_columns<order>(source(2 * i + 1), width, odd);
    const bool inside = 2 * i + 2 < height;
    if (inside) before_columns<order>(source(2 * i + 2), width, next);
    const int32_t* below = inside ? next : even;
    for (size_t x = 0; x < width; ++x) odd[x] = sub(odd[x], half(even[x], below[x]));
    const int32_t* above = i != 0 ? before : odd;
    for (size_t x = 0; x < width; ++x) low[x] = add(even[x], quarter(above[x], odd[x]));
    after_columns<order>(low, width, ll[i], hl[i]);
    after_columns<order>(odd, width, lh[i], hh[i]);
    std::swap(before, odd);
    std::swap(even, next);
  }
  if (low_size(height) > nh) {
    for (size_t x = 0; x < width; ++x) low[x] = add(even[x], quarter(before[x], before[x]));
    after_columns<order>(low, width, ll[nh], hl[nh]);
  }
}

// The inverse. sink(y, row) takes each finished row, in order. scratch: 7 * width + 1 words.
template <Order order = Order::plain, class Sink>
void synthesise(size_t height, size_t width, Rows ll, Rows hl, Rows lh, Rows hh, Sink&& sink, int32_t* scratch) {
  using namespace lifting;
  const size_t nl = low_size(height), nh = high_size(height);
  int32_t* even = scratch;
  int32_t* last = even + width;   // the even row before
  int32_t* high = last + width;
  int32_t* before = high + width;  // the high row before
  int32_t* odd = before + width;
  int32_t* whole = odd + width;
  int32_t* row = whole + width;   // scratch of rows, width + 1
  const auto give = [&](size_t y, const int32_t* x) { sink(y, undo_before_columns<order>(x, width, whole, row)); };
  for (size_t i = 0; i < nl; ++i) {
    undo_after_columns<order>(ll[i], hl[i], width, even, row);
    if (nh != 0) {
      if (i < nh) undo_after_columns<order>(lh[i], hh[i], width, high, row);
      const int32_t* above = i != 0 ? before : high;
      const int32_t* below = i < nh ? high : before;
      for (size_t x = 0; x < width; ++x) even[x] = sub(even[x], quarter(above[x], below[x]));
      if (i != 0) {
        for (size_t x = 0; x < width; ++x) odd[x] = add(before[x], half(last[x], even[x]));
        give(2 * i - 1, odd);
      }
    }
    give(2 * i, even);
    if (i + 1 == nl && nh == nl) {
      for (size_t x = 0; x < width; ++x) odd[x] = add(high[x], half(even[x], even[x]));
      give(2 * i + 1, odd);
    }
    std::swap(before, high);
    std::swap(last, even);
  }
}

}  // namespace tilevault
