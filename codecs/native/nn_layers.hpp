// What the kernels of integer networks work on: a layer's numbers as one path wants them, and rows of pixels.
//
// A row holds its pixels one after another, each with all its channels (int16, padded to kChannelStep), and has
// kMargin pixels before the first and kSlack after the last, which replicate the border or hold anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu.hpp"

namespace tilevault::nn {

constexpr size_t kChannelStep = 16;  // 32 bytes: rows of every channel count start at multiples of 64 bytes
constexpr size_t kMargin = 2;        // the radius of the largest kernel
constexpr size_t kSlack = 20;        // what kernels of many pixels at a time may write too much

constexpr size_t padded(size_t channels) { return (channels + kChannelStep - 1) / kChannelStep * kChannelStep; }

// For loads of whole cache lines.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kLine); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <class T>
using Line = std::vector<T, Aligned<T>>;

// A convolution's numbers. Sums are kept in vectors of `lanes` channels; two vectors hold 2 * lanes channels in
// the path's own order, so that packing them to int16 puts the channels in theirs.
struct Packed {
  size_t in = 0, out = 0;    // channels
  size_t size = 1;           // 1, 3 or 5: the kernel is size x size
  Line<int16_t> weights;     // in the order in which the kernel reads them
  Line<int8_t> tiles;        // the same for matrix tiles; empty where those cannot be used
  Line<int32_t> bias;        // with half of what is shifted out: a shift then rounds
  Line<int32_t> shift;
  Line<int16_t> low, high;   // by channel
  bool in_bytes = false;     // the input fits one byte: its other byte is nothing or a sign
  bool in_signed = false;    // and that byte is signed
};

// The rows that one output row needs, `size` of them, at their first pixel; and where it goes.
struct Rows {
  const int16_t* in[5];
  int16_t* out;
  size_t in_pixel, out_pixel;  // elements from a pixel to the next
  size_t width;
};

// One path through the kernels: the same integers from all.
struct Kernels {
  const char* name;
  size_t lanes;                                        // int32 in a vector
  size_t group;                                        // vectors of sums that `dense` fills at a time
  size_t (*channel)(size_t position, size_t padded);   // at this position of the sums' order
  void (*dense)(const Packed&, const Rows&);
  void (*depthwise)(const Packed&, const Rows&);
  // out = clamp(in[0] + in[1]); both of n elements per row, a multiple of kChannelStep
  void (*add)(const Packed&, const Rows&, size_t n);
  void (*begin)() = nullptr;  // before and after the rows of one run, where not null: matrix tiles are used
  void (*end)() = nullptr;
};

}  // namespace tilevault::nn
