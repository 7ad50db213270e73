// Which colour transform a tile of the wavelet path gets, from samples of its finest coefficients.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "colour.hpp"
#include "cpu.hpp"

namespace tilevault {

class ColourChoice {
 public:
  // segment: the finest coefficients, `size` of each plane. Of the axes (transforms of kind {}) the one that is
  // worth it most, with the kind that makes it smallest; -1 if none is worth it.
  int find(const std::vector<Colour>& axes, const int32_t* segment, size_t size, ColourKind& kind) {
    int best = -1;
    double most = kLeast;
    for (size_t i = 0; i < axes.size(); ++i) {
      take(axes[i], segment, size);
      if (samples_[0].empty()) continue;
      const double n = 3.0 * static_cast<double>(samples_[0].size());
      const double apart = static_cast<double>(bits(0) + bits(1) + bits(2)) / n;
      for (const Candidate& candidate : kCandidates) {
        mix(candidate.kind);
        const double saved = apart - static_cast<double>(bits(3) + bits(4) + bits(5)) / n - candidate.handicap;
        if (saved <= most) continue;
        most = saved;
        best = static_cast<int>(i);
        kind = candidate.kind;
      }
    }
    return best;
  }

 private:
  // What the estimate gets wrong, in 2^-23 bits a coefficient, found on photographs, ultrasound and orthophotos.
  struct Candidate {
    ColourKind kind;
    double handicap;
  };
  static constexpr double kBit = 1 << 23;
  static constexpr double kLeast = 0.05 * kBit;  // bands that are apart may predict each other
  static constexpr Candidate kCandidates[] = {{{0, Mix::ycocg}, 0.02 * kBit},    {{1, Mix::ycocg}, 0},
                                              {{0, Mix::rct}, -0.01 * kBit},     {{2, Mix::from_one}, 0},
                                              {{0, Mix::from_two}, 0.01 * kBit}, {{2, Mix::from_two}, 0},
                                              {{5, Mix::from_two}, 0}};
  static constexpr size_t kPiece = 128, kStep = 1024;

  // A piece of every so many coefficients, of each of the three planes.
  void take(const Colour& colour, const int32_t* segment, size_t size) {
    for (auto& s : samples_) s.clear();
    for (const Colour::Triple& t : colour.triples_)
      for (size_t plane = 0; plane < 3; ++plane) {
        const int32_t* from = segment + (t.first + plane * t.apart) * size;
        for (size_t at = 0; at < size; at += kStep) samples_[plane].insert(samples_[plane].end(), from + at, from + std::min(at + kPiece, size));
      }
    for (size_t plane = 3; plane < 6; ++plane) samples_[plane].resize(samples_[0].size());
  }

  void mix(ColourKind kind) {
    const auto& order = kOrders[kind.order];
    const int32_t *a = samples_[order[0]].data(), *b = samples_[order[1]].data(), *c = samples_[order[2]].data();
    int32_t *x = samples_[3].data(), *y = samples_[4].data(), *z = samples_[5].data();
    const size_t n = samples_[0].size();
    mixes::with(kind.mix, [&](auto which) {
      run([&] {
        for (size_t i = 0; i < n; ++i) {
          int32_t coded[3];
          mixes::forward<decltype(which)::value>(a[i], b[i], c[i], coded);
          x[i] = coded[0], y[i] = coded[1], z[i] = coded[2];
        }
      });
    });
  }

  // The sum of log2(|v| + 0.75), linear between powers of two: a float's bits.
  int64_t bits(size_t plane) const {
    const std::vector<int32_t>& values = samples_[plane];
    int64_t sum = 0;
    run([&] {
      for (const int32_t v : values) {
        const float f = std::abs(static_cast<float>(v)) + 0.75f;
        int32_t log;
        std::memcpy(&log, &f, 4);
        sum += log - 0x3F800000;
      }
    });
    return sum;
  }

  std::array<std::vector<int32_t>, 6> samples_;
};

}  // namespace tilevault
