// Sums of the structural similarity index (Wang, Bovik, Sheikh, Simoncelli 2004) over the positions of a plane
// where the whole Gaussian window lies in it: luminance x contrast-structure, and contrast-structure alone.
// Floats of one order and no fused operation: every machine gives the same sums.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu.hpp"

namespace tilevault {

constexpr size_t kSsimRadius = 5;
constexpr size_t kSsimTaps = 2 * kSsimRadius + 1;

// exp(-k^2 / (2 * 1.5^2)) of k = 0 to 5, divided by the sum over k = -5 to 5.
constexpr double kSsimWeights[kSsimRadius + 1] = {0.2660117248617943,   0.21300553771125366,  0.1093606895097,
                                                  0.03600077212843082,  0.007598758135239184, 0.0010283800844791099};

struct SsimSums {
  double similarity = 0;  // of luminance x contrast-structure
  double structure = 0;   // of contrast-structure
  uint64_t positions = 0;
};

// Two planes of one shape, row by row, less `shift` (a value near their middle: the variances are differences
// of squares). Where `valid` is given, invalid pixels have no weight and no position.
struct SsimPlanes {
  const double* x;
  const double* y;
  const uint8_t* valid;
  size_t rows, columns;
  double shift, c1, c2;
};

template <bool kMasked>
class SsimKernel {
 public:
  explicit SsimKernel(const SsimPlanes& planes)
      : p_(planes), out_(planes.columns - 2 * kSsimRadius), moments_(kMoments * planes.columns),
        ring_(kSsimTaps * kMoments * out_), window_(kMoments * out_), index_(out_), structure_(out_) {}

  SsimSums operator()() {
    for (size_t row = 0; row < p_.rows; ++row) {
      filter_row(row);
      if (row + 1 >= kSsimTaps) add_positions(row - kSsimRadius);
    }
    for (size_t i = 0; i < out_; ++i) {
      sums_.similarity += index_[i];
      sums_.structure += structure_[i];
    }
    return sums_;
  }

 private:
  // Weighted x, y, x^2 + y^2, x y, and the weights themselves.
  static constexpr size_t kMoments = kMasked ? 5 : 4;

  static void convolve(const double* __restrict in, size_t step, size_t count, double* __restrict out) {
    const double* const centre = in + kSsimRadius * step;
    for (size_t i = 0; i < count; ++i) {
      const double* const c = centre + i;
      double sum = kSsimWeights[0] * c[0];
      for (size_t k = 1; k <= kSsimRadius; ++k) sum += kSsimWeights[k] * (*(c - k * step) + c[k * step]);
      out[i] = sum;
    }
  }

  void filter_row(size_t row) {
    const size_t n = p_.columns;
    const double *const x = p_.x + row * n, *const y = p_.y + row * n;
    double *const mx = moments_.data(), *const my = mx + n, *const mss = my + n, *const mxy = mss + n;
    for (size_t i = 0; i < n; ++i) {
      double a = x[i] - p_.shift, b = y[i] - p_.shift;
      if constexpr (kMasked) {
        const bool valid = p_.valid[row * n + i] != 0;
        a = valid ? a : 0.0;
        b = valid ? b : 0.0;
        (mxy + n)[i] = valid ? 1.0 : 0.0;
      }
      mx[i] = a;
      my[i] = b;
      mss[i] = a * a + b * b;
      mxy[i] = a * b;
    }
    for (size_t m = 0; m < kMoments; ++m) convolve(mx + m * n, 1, out_, ring_row(row, m));
  }

  double* ring_row(size_t row, size_t moment) { return ring_.data() + (row % kSsimTaps * kMoments + moment) * out_; }

  // Column-wise: the ring's rows in the order of the plane, the centre first as in convolve.
  void combine(size_t centre, size_t moment, double* __restrict out) {
    const double* const c = ring_row(centre, moment);
    const double *up[kSsimRadius + 1], *down[kSsimRadius + 1];
    for (size_t k = 1; k <= kSsimRadius; ++k) {
      up[k] = ring_row(centre - k, moment);
      down[k] = ring_row(centre + k, moment);
    }
    for (size_t i = 0; i < out_; ++i) {
      double sum = kSsimWeights[0] * c[i];
      for (size_t k = 1; k <= kSsimRadius; ++k) sum += kSsimWeights[k] * (up[k][i] + down[k][i]);
      out[i] = sum;
    }
  }

  void add_positions(size_t centre) {
    for (size_t m = 0; m < kMoments; ++m) combine(centre, m, window_.data() + m * out_);
    const double *const mx = window_.data(), *const my = mx + out_, *const mss = my + out_, *const mxy = mss + out_;
    double *__restrict const index = index_.data(), *__restrict const structure = structure_.data();
    const uint8_t* const valid = kMasked ? p_.valid + centre * p_.columns + kSsimRadius : nullptr;
    for (size_t i = 0; i < out_; ++i) {
      double a = mx[i], b = my[i], squares = mss[i], product = mxy[i];
      if constexpr (kMasked) {
        // Of a valid centre the weight is at least that of the centre.
        const double weight = valid[i] ? (mxy + out_)[i] : 1.0;
        a /= weight;
        b /= weight;
        squares /= weight;
        product /= weight;
      }
      const double cs = (2 * (product - a * b) + p_.c2) / (squares - (a * a + b * b) + p_.c2);
      const double u = a + p_.shift, v = b + p_.shift;
      const double whole = (2 * (u * v) + p_.c1) / ((u * u + v * v) + p_.c1) * cs;
      if constexpr (kMasked) {
        index[i] += valid[i] ? whole : 0.0;
        structure[i] += valid[i] ? cs : 0.0;
      } else {
        index[i] += whole;
        structure[i] += cs;
      }
    }
    if constexpr (kMasked) {
      for (size_t i = 0; i < out_; ++i) sums_.positions += valid[i] != 0;
    } else {
      sums_.positions += out_;
    }
  }

  const SsimPlanes& p_;
  size_t out_;
  std::vector<double> moments_, ring_, window_, index_, structure_;
  SsimSums sums_;
};

// Both axes have at least kSsimTaps samples.
inline SsimSums ssim_sums(const SsimPlanes& planes) {
  SsimSums sums;
  if (planes.valid) {
    SsimKernel<true> kernel(planes);
    run_widest([&] { sums = kernel(); }, [&] { sums = kernel(); });
  } else {
    SsimKernel<false> kernel(planes);
    run_widest([&] { sums = kernel(); }, [&] { sums = kernel(); });
  }
  return sums;
}

}  // namespace tilevault
