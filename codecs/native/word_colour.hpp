// YCoCg-R on the words of planes, for the path without resolutions: whether it pays, and where.
//
// A plane that is predicted with the help of an earlier one needs it less. It pays where planes are equal in
// places (grey stored as RGB), which one weight for all places cannot say, and a little in photographs.
#pragma once

#include <algorithm>
#include <vector>

#include "colour.hpp"
#include "refs.hpp"
#include "tokens.hpp"

namespace tilevault {

class WordColour {
 public:
  // Whether YCoCg-R makes three planes no larger than predicting each from the one before does;
  // by the bit lengths of what is left of details, in rows spread over the planes.
  bool pays(const int32_t* const planes[3], size_t height, size_t width) {
    if (height < 2 || width < 2) return false;
    uint64_t apart = 0, together = 0;
    const size_t pairs = std::min(kRows, height - 1);
    for (auto& plane : details_) plane.clear();
    for (auto& plane : transformed_) plane.clear();
    for (size_t i = 0; i < pairs; ++i) {
      const size_t y = pairs == 1 ? 0 : (height - 2) * i / (pairs - 1);
      for (size_t p = 0; p < 3; ++p) {
        rows_[p].assign(planes[p] + y * width, planes[p] + (y + 2) * width);
        add_details(rows_[p], width, details_[p]);
      }
      for (size_t x = 0; x < 2 * width; ++x) {
        int32_t coded[3];
        mixes::forward<Mix::ycocg>(rows_[0][x], rows_[1][x], rows_[2][x], coded);
        for (size_t p = 0; p < 3; ++p) rows_[p][x] = coded[p];
      }
      for (size_t p = 0; p < 3; ++p) add_details(rows_[p], width, transformed_[p]);
    }
    for (size_t p = 0; p < 3; ++p) {
      apart += p == 0 ? lengths(details_[0]) : std::min(lengths(details_[p]), without(details_[p], details_[p - 1]));
      together += lengths(transformed_[p]);
    }
    return together < apart + apart / 32;  // at equal lengths it is the better one: its luma averages noise
  }

 private:
  static constexpr size_t kRows = 64;

  static void add_details(const std::vector<int32_t>& rows, size_t width, std::vector<int32_t>& to) {
    const size_t at = to.size();
    to.resize(at + width - 1);
    ReferenceFinder::details(rows.data(), 2, width, to.data() + at);
  }
  static unsigned length(int32_t v) { return 32u - static_cast<unsigned>(__builtin_clz(zigzag(v) | 1u)) - (v == 0); }
  static uint64_t lengths(const std::vector<int32_t>& values) {
    uint64_t sum = 0;
    for (const int32_t v : values) sum += length(v);
    return sum;
  }
  // Of a with the best multiple (in 1/64) of b taken out.
  static uint64_t without(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
    double ab = 0, bb = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      ab += static_cast<double>(a[i]) * b[i];
      bb += static_cast<double>(b[i]) * b[i];
    }
    const auto weight = bb > 0 ? static_cast<int64_t>(std::lround(64 * std::clamp(ab / bb, -8.0, 8.0))) : 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += length(static_cast<int32_t>(a[i] - ((weight * b[i] + 32) >> 6)));
    return sum;
  }

  std::vector<int32_t> rows_[3], details_[3], transformed_[3];
};

}  // namespace tilevault
