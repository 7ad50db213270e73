// Tiles that are coded transposed. Contexts and fitted predictions of a band look up, not left: where a sample has
// more to do with its row than with its column, as in scans that were interpolated along rows, bands take fewer
// bits transposed. The transform itself stays what it is, so that low bands do not depend on this.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace tilevault {

// Planes of height x width words to planes of width x height, by blocks of which the lines on both sides stay in
// the first cache.
inline void transpose_planes(const std::vector<int32_t>& words, size_t planes, size_t height, size_t width, std::vector<int32_t>& out) {
  constexpr size_t kBlock = 16;
  out.resize(words.size());
  for (size_t p = 0; p < planes; ++p) {
    const int32_t* from = words.data() + p * height * width;
    int32_t* to = out.data() + p * height * width;
    for (size_t y = 0; y < height; y += kBlock)
      for (size_t x = 0; x < width; x += kBlock) {
        const size_t rows = std::min(height, y + kBlock), columns = std::min(width, x + kBlock);
        for (size_t j = x; j < columns; ++j)
          for (size_t i = y; i < rows; ++i) to[j * height + i] = from[i * width + j];
      }
  }
}

// Takes the columns of a plane as rows, some at a time, and writes them as columns.
class Columns {
 public:
  // size: bytes of a sample.
  void start(size_t size, size_t height, size_t width) {
    size_ = size;
    height_ = height;
    width_ = width;
    kept_.resize(kMost * height * size);
  }
  // Where column x is to be written.
  uint8_t* row(size_t x) { return kept_.data() + x % kMost * height_ * size_; }

  // Column x is written, and those before it. at(y): row y of the plane.
  template <class At>
  void close(size_t x, At&& at) const {
    if ((x + 1) % kMost != 0 && x + 1 != width_) return;
    switch (size_) {
      case 1: return write<uint8_t>(x, at);
      case 2: return write<uint16_t>(x, at);
      default: return write<uint32_t>(x, at);
    }
  }

 private:
  static constexpr size_t kMost = 32, kBlock = 16;

  template <class T, class At>
  void write(size_t last, At&& at) const {
    const size_t first = last / kMost * kMost, count = last - first + 1;
    std::array<uint8_t*, kBlock> to;
    for (size_t y = 0; y < height_; y += kBlock) {
      const size_t rows = std::min(kBlock, height_ - y);
      for (size_t i = 0; i < rows; ++i) to[i] = at(y + i) + first * sizeof(T);
      for (size_t j = 0; j < count; ++j) {
        const uint8_t* from = kept_.data() + (j * height_ + y) * sizeof(T);
        for (size_t i = 0; i < rows; ++i) std::memcpy(to[i] + j * sizeof(T), from + i * sizeof(T), sizeof(T));
      }
    }
  }

  std::vector<uint8_t> kept_;
  size_t size_ = 0, height_ = 0, width_ = 0;
};

}  // namespace tilevault
