// The squared error that a step will leave, before anything is coded: what coefficients beyond a threshold lose by
// rounding, and the others altogether. Bands are nearly orthogonal, so errors of coefficients, times the norm of
// their band's synthesis, add up to those of samples.
//
// Where few coefficients count, a coefficient costs an encoder more bits, and it drops larger ones: the threshold
// is where the bits of a 1, by the share of such coefficients in the block, are worth the error that they take away.
// Within a decibel on most images; from one step to another near it within hundredths.
#pragma once

#include "lossy_tile.hpp"

namespace tilevault::lossy {

class Estimate {
 public:
  // samples as TileEncoder has them.
  Estimate(const Model& model, const int32_t* samples, TileShape shape) : m_(model), bits_(TileEncoder::range_bits(samples, shape)) {
    PlaneBuffers buffers;
    buffers.shape(shape.height, shape.width, true);
    const size_t n = shape.plane();
    std::vector<int32_t> left(n);
    for (size_t p = 0; p < shape.planes; ++p) {
      const PlaneHeader head = p == 0 ? PlaneHeader{} : TileEncoder::reference(samples, p, shape);
      const int32_t* from = samples + p * n;
      if (head.reference != 0) {
        const int32_t* base = from - head.reference * n;
        for (size_t i = 0; i < n; ++i) left[i] = static_cast<int32_t>(from[i] - predicted(head.weight, base[i]));
        from = left.data();
      }
      TileEncoder::enter(from, n, range_of(from, n, kWorkBits - bits_), buffers);
      analyse(buffers);
      for (unsigned l = 0; l < kLevels; ++l)
        for (unsigned b = 0; b < kBands; ++b) add(buffers, l, b);
      low_ += buffers.level[kLevels - 1].low.size();
    }
  }

  // Sum of the squared errors of all samples. slope: as TileEncoder's.
  double squares(unsigned code, double slope) const {
    const float step = static_cast<float>(m_.step(code)) / 64;
    double sum = static_cast<double>(low_) * kRounding;
    auto kernel = [&] {
      size_t first = 0;
      for (const size_t end : ends_) {
        sum += block(first, end, step, slope);
        first = end;
      }
    };
    run_widest(kernel, kernel);
    const double unit = std::ldexp(static_cast<double>(step), bits_ - kWorkBits);
    return sum * unit * unit;
  }

 private:
  static constexpr double kRounding = 1.0 / 12;
  static constexpr float kCounts = 0.6F;       // of a step: coefficients above it mostly become 1 or more
  static constexpr double kMostThreshold = 1.2;
  static constexpr size_t kLanes = 16;         // sums that are added up in this order on every machine

  void add(const PlaneBuffers& buffers, unsigned l, unsigned b) {
    const size_t h = buffers.level[l].band_height(buffers.above_height(l), b), w = buffers.level[l].band_width(buffers.above_width(l), b);
    const int32_t* band = buffers.level[l].analysed[b].data();
    const float gain = 16384.0F / m_.inverse_gain[l * kBands + b];
    for (size_t y0 = 0; y0 < h; y0 += kCodedBlock)
      for (size_t x0 = 0; x0 < w; x0 += kCodedBlock) {
        for (size_t y = y0; y < std::min(y0 + kCodedBlock, h); ++y)
          for (size_t x = x0; x < std::min(x0 + kCodedBlock, w); ++x) sizes_.push_back(static_cast<float>(std::abs(band[y * w + x])) * gain);
        sizes_.resize((sizes_.size() + kLanes - 1) / kLanes * kLanes, 0.0F);
        ends_.push_back(sizes_.size());
      }
  }

  // In squared steps.
  double block(size_t first, size_t end, float step, double slope) const {
    const float counts = kCounts * step, inverse = 1 / step;
    size_t many = 0;
    for (size_t i = first; i < end; ++i) many += sizes_[i] > counts ? 1 : 0;
    const double n = static_cast<double>(end - first), share = std::clamp(static_cast<double>(many) / n, 0.5 / n, 0.75);
    const double bits = std::max(std::log2((1 - share) / share) + 1, 0.0);
    const float threshold = static_cast<float>(std::min(0.5 + bits / (2 * slope), kMostThreshold)) * step;
    float sums[kLanes] = {};
    for (size_t i = first; i < end; i += kLanes)
      for (size_t k = 0; k < kLanes; ++k) {
        const float size = sizes_[i + k] * inverse;
        sums[k] += sizes_[i + k] < threshold ? size * size : static_cast<float>(kRounding);
      }
    double sum = 0;
    for (const float s : sums) sum += static_cast<double>(s);
    return sum;
  }

  const Model& m_;
  int bits_;
  size_t low_ = 0;               // coefficients of LL
  std::vector<float> sizes_;     // of the others, as errors of samples on the scale of the transform, block by block
  std::vector<size_t> ends_;     // of blocks
};

}  // namespace tilevault::lossy
