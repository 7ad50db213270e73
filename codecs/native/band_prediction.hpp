// Fitted prediction of the coefficients of a band: what the 5/3 filters leave is still in part a linear
// function of what the decoder knows before the row begins: LL of the same decomposition, the sibling
// bands, the row above, the same band of reference planes.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "bits.hpp"
#include "contexts.hpp"
#include "refs.hpp"
#include "subbands.hpp"
#include "tokens.hpp"

namespace tilevault {

constexpr unsigned kMostTaps = 11;
constexpr unsigned kWeightBits = 11;     // of a signed weight
constexpr unsigned kWeightFraction = 8;  // bits of it behind the point

// One band's weights; none: not predicted.
struct BandWeights {
  bool used = false;
  std::array<int32_t, kMostTaps> of{};
};

inline unsigned own_taps(Kind kind) { return kind == kHH ? 9 : 4; }
inline unsigned taps_of(Kind kind, const Reference& reference) {
  return own_taps(kind) + (reference.first >= 0) + (reference.second >= 0);
}
// The first so many taps are differences to LL at the same place.
inline unsigned relative_taps(Kind kind) { return kind == kHH ? 0 : 3; }

inline void write_weights(const BandWeights& weights, unsigned count, BitWriter& w) {
  w.put_slow(weights.used, 1);
  if (!weights.used) return;
  for (unsigned i = 0; i < count; ++i)
    w.put_slow(static_cast<uint32_t>(weights.of[i]) & ((1u << kWeightBits) - 1), kWeightBits);
}
inline void read_weights(BandWeights& weights, unsigned count, BitReader& r) {
  weights = BandWeights{};
  weights.used = r.get_slow(1) != 0;
  if (!weights.used) return;
  for (unsigned i = 0; i < count; ++i)
    weights.of[i] = static_cast<int32_t>(r.get_slow(kWeightBits) << (32 - kWeightBits)) >> (32 - kWeightBits);
}

// The weights of a tile's bands; most bands have none.
class WeightSet {
 public:
  void reset(size_t planes, unsigned levels) {
    levels_ = levels;
    index_.assign(planes * levels * 3, -1);
    used_.clear();
  }
  void set(unsigned k, size_t plane, Kind kind, const BandWeights& weights) {
    if (!weights.used) return;
    index_[place(k, plane, kind)] = static_cast<int32_t>(used_.size());
    used_.push_back(weights);
  }
  const BandWeights& of(unsigned k, size_t plane, Kind kind) const {
    const int32_t i = kind == kLL ? -1 : index_[place(k, plane, kind)];
    return i < 0 ? none_ : used_[static_cast<size_t>(i)];
  }

 private:
  size_t place(unsigned k, size_t plane, Kind kind) const { return (plane * levels_ + k - 1) * 3 + kind - kHL; }

  unsigned levels_ = 0;
  std::vector<int32_t> index_;
  std::vector<BandWeights> used_;
  BandWeights none_;
};

// Rows of the taps of one band, all of them real coefficients (predictions undone).
class BandTaps {
 public:
  // c: coefficients of the whole tile. Rows of this band and the bands before must be real when they are asked for.
  void start(const Subbands& tile, unsigned decomposition, size_t plane, Kind kind, const Reference& reference, const LowBand& ll, const int32_t* c) {
    kind_ = kind;
    ll_ = ll;
    own_ = tile.band(decomposition, plane, kind);
    hl_ = tile.band(decomposition, plane, kHL);
    lh_ = tile.band(decomposition, plane, kLH);
    c_ = c;
    count_ = own_taps(kind);
    reference_count_ = 0;
    for (const int32_t ref : {reference.first, reference.second})
      if (ref >= 0) reference_[reference_count_++] = tile.band(decomposition, static_cast<size_t>(ref), kind).offset;
    count_ += reference_count_;
    zeros_.assign(own_.width + 1, 0);
    beside_.assign(lh_.width + 3, 0);
  }

  unsigned count() const { return count_; }
  unsigned relative() const { return relative_taps(kind_); }
  const int32_t* row(unsigned i) const { return rows_[i]; }
  const int32_t* centre() const { return centre_; }
  unsigned above() const { return own_taps(kind_) - 1; }  // the tap in the own band
  size_t width() const { return own_.width; }
  size_t height() const { return own_.height; }

  // Makes row(i) those of row y.
  void seek(size_t y) {
    const int32_t* above = y == 0 ? zeros_.data() : c_ + own_.offset + (y - 1) * own_.width;
    unsigned i = 0;
    centre_ = nullptr;
    if (kind_ == kHL) {
      centre_ = ll_.near(y, 0);
      for (int dx : {-1, 1, 2}) rows_[i++] = centre_ + dx;
    } else if (kind_ == kLH) {
      centre_ = ll_.near(y, 0);
      for (int dy : {-1, 1, 2}) rows_[i++] = ll_.near(y, dy);
    } else {
      for (int dy : {-1, 0, 1, 2}) {
        const auto at = static_cast<std::ptrdiff_t>(y) + dy;
        const bool inside = at >= 0 && at < static_cast<std::ptrdiff_t>(hl_.height);
        rows_[i++] = inside ? c_ + hl_.offset + static_cast<size_t>(at) * hl_.width : zeros_.data();
      }
      std::copy_n(c_ + lh_.offset + y * lh_.width, lh_.width, beside_.data() + 1);
      for (unsigned dx = 0; dx < 4; ++dx) rows_[i++] = beside_.data() + dx;
    }
    rows_[i++] = above;
    for (unsigned r = 0; r < reference_count_; ++r) rows_[i++] = c_ + reference_[r] + y * own_.width;
  }

  // The prediction of the row that was sought. Sums wrap.
  void predict(const BandWeights& weights, int32_t* __restrict out) const {
    switch (count_) {
      case 4: return sum<4>(weights, out);
      case 5: return sum<5>(weights, out);
      case 6: return sum<6>(weights, out);
      case 9: return sum<9>(weights, out);
      case 10: return sum<10>(weights, out);
      default: return sum<11>(weights, out);
    }
  }

 private:
  template <unsigned n>
  void sum(const BandWeights& weights, int32_t* __restrict out) const {
    std::array<uint32_t, n> k;
    std::array<const int32_t*, n> rows;
    uint32_t middle = 0;
    for (unsigned i = 0; i < n; ++i) {
      k[i] = static_cast<uint32_t>(weights.of[i]);
      rows[i] = rows_[i];
      if (i < relative()) middle -= k[i];
    }
    const int32_t* centre = centre_ != nullptr ? centre_ : zeros_.data();
    const size_t width = own_.width;
    for (size_t x = 0; x < width; ++x) {
      uint32_t s = (1u << kWeightFraction) / 2 + middle * static_cast<uint32_t>(centre[x]);
      for (unsigned i = 0; i < n; ++i) s += k[i] * static_cast<uint32_t>(rows[i][x]);
      out[x] = static_cast<int32_t>(s) >> kWeightFraction;
    }
  }

  Kind kind_ = kHL;
  LowBand ll_;
  Band own_{}, hl_{}, lh_{};
  const int32_t* c_ = nullptr;
  unsigned count_ = 0, reference_count_ = 0;
  std::array<size_t, 2> reference_{};
  std::array<const int32_t*, kMostTaps> rows_{};
  const int32_t* centre_ = nullptr;
  std::vector<int32_t> zeros_, beside_;
};

// Finds weights by least squares on a sample of rows. Errors count by the logarithm, as a coder counts
// them, so the squares are weighted by the neighbourhood, and once more by the errors of the first fit.
//
// Floats, but each sum in one order and nothing fused, so that every machine finds the same weights.
class BandFit {
 public:
  // Whether predicting pays, with weights that say how. saved_across: where it is not nullptr, grows by how many
  // bits more than that would be saved with the coefficient to the left in the place of the one above.
  bool fit(BandTaps& taps, const int32_t* band, size_t samples, BandWeights& weights, int64_t* saved_across = nullptr) {
    const size_t h = taps.height(), w = taps.width(), n = taps.count();
    weights = BandWeights{};
    if (h * w < 64) return false;
    left_ = saved_across != nullptr;
    const size_t step = std::clamp<size_t>(h * w / samples, 1, h);
    size_t sampled = 0;
    Solution k;
    for (size_t i = 0; i < n; ++i) k.column[i] = i;
    stride_ = (w + kLane - 1) / kLane * kLane;
    const size_t most = (h - step / 2 + step - 1) / step;
    columns_ = n + 2 + (left_ ? 1 : 0);
    data_.assign(columns_ * stride_ * most, 0.0f);
    for (size_t y = step / 2; y < h; y += step) load(taps, band, y, sampled++);
    if (sampled == 0) return false;
    for (unsigned pass = 0; pass < 2; ++pass) {
      accumulate(n, sampled, pass != 0 ? &k : nullptr);
      if (!solve(n, k)) return false;
    }
    const Sampled sample{n, sampled, static_cast<double>(h) / static_cast<double>(sampled)};
    int64_t bits = 0;
    if (!round(n, k, &weights)) {
      weights = BandWeights{};
    } else {
      bits = saving(sample, k);
      weights.used = bits > static_cast<int64_t>(n * kWeightBits + h * w / 64);
    }
    if (left_) *saved_across += std::max<int64_t>(saving_across(sample, taps.above(), k), 0) - std::max<int64_t>(bits, 0);
    return weights.used;
  }

 private:
  static constexpr size_t kLane = 16;

  struct Solution {  // weights of columns
    std::array<double, kMostTaps> of{};
    std::array<size_t, kMostTaps> column{};
  };
  struct Sampled {
    size_t taps, rows;
    double scale;  // rows of the band for one that was sampled
  };

  // To weights as they are sent; false: they cannot be.
  static bool round(size_t n, Solution& k, BandWeights* weights) {
    constexpr double kUnit = 1 << kWeightFraction, kMost = (1 << (kWeightBits - 1)) - 1;
    for (size_t i = 0; i < n; ++i) {
      const double rounded = k.of[i] * kUnit + (k.of[i] < 0 ? -0.5 : 0.5);
      if (!(rounded > -kMost && rounded < kMost)) return false;
      const auto sent = static_cast<int32_t>(rounded);
      if (weights != nullptr) weights->of[i] = sent;
      k.of[i] = sent / kUnit;
    }
    return true;
  }

  // Bits saved with the neighbour to the left in the place of tap `above`.
  int64_t saving_across(const Sampled& sample, size_t above, Solution k) {
    k.column[above] = sample.taps + 2;
    return solve(sample.taps, k) && round(sample.taps, k, nullptr) ? saving(sample, k) : 0;
  }

  float* at(size_t row, size_t column) { return data_.data() + (row * columns_ + column) * stride_; }

  // Columns: taps, the coefficient, how large its neighbours are, perhaps the coefficient to the left.
  void load(BandTaps& taps, const int32_t* band, size_t y, size_t row) {
    const size_t w = taps.width(), h = taps.height(), n = taps.count();
    taps.seek(y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t *from = taps.row(i), *centre = taps.centre();
      float* to = at(row, i);
      if (i < taps.relative()) {
        for (size_t x = 0; x < w; ++x) to[x] = static_cast<float>(lifting::sub(from[x], centre[x]));
      } else {
        for (size_t x = 0; x < w; ++x) to[x] = static_cast<float>(from[x]);
      }
    }
    const int32_t *own = band + y * w, *above = y != 0 ? own - w : own, *below = y + 1 < h ? own + w : above;
    float *value = at(row, n), *size = at(row, n + 1);
    for (size_t x = 0; x < w; ++x) value[x] = static_cast<float>(own[x]);
    for (size_t x = 0; x < w; ++x) {
      const size_t left = x != 0 ? x - 1 : 0, right = x + 1 < w ? x + 1 : x;
      const uint32_t m = magnitude(above[left]) + 2 * magnitude(above[x]) + magnitude(above[right]) + magnitude(below[left]) +
                         2 * magnitude(below[x]) + magnitude(below[right]);
      size[x] = 1.0f + 0.125f * static_cast<float>(m);
    }
    for (size_t x = w; x < stride_; ++x) size[x] = 1.0f;
    if (left_) std::copy_n(value, w - 1, at(row, n + 2) + 1);
  }

  void accumulate(size_t n, size_t rows, const Solution* k) {
    sums_ = {};
    weight_.resize(stride_);
    weighted_.resize(stride_);
    for (size_t r = 0; r < rows; ++r) {
      const float* size = at(r, n + 1);
      if (k == nullptr) {
        for (size_t x = 0; x < stride_; ++x) weight_[x] = 1.0f / (size[x] * size[x]);
      } else {
        error(n, r, *k);
        for (size_t x = 0; x < stride_; ++x) weight_[x] = 1.0f / (size[x] * (std::abs(weighted_[x]) + 0.5f * size[x]));
      }
      for (size_t i = 0; i <= n; ++i) {
        const float* a = at(r, i);
        for (size_t x = 0; x < stride_; ++x) weighted_[x] = a[x] * weight_[x];
        for (size_t j = i; j <= n; ++j) sums_[i][j] += static_cast<double>(dot(weighted_.data(), at(r, j)));
        if (left_) sums_[i][n + 2] += static_cast<double>(dot(weighted_.data(), at(r, n + 2)));
      }
      if (!left_) continue;
      const float* a = at(r, n + 2);
      for (size_t x = 0; x < stride_; ++x) weighted_[x] = a[x] * weight_[x];
      sums_[n + 2][n + 2] += static_cast<double>(dot(weighted_.data(), a));
    }
  }

  float dot(const float* a, const float* b) const {
    std::array<float, kLane> lanes{};
    for (size_t x = 0; x < stride_; x += kLane)
      for (size_t l = 0; l < kLane; ++l) lanes[l] += a[x + l] * b[x + l];
    float sum = 0;
    for (float v : lanes) sum += v;
    return sum;
  }

  // weighted_ becomes what the weights leave of a row.
  void error(size_t n, size_t r, const Solution& k) {
    const float* value = at(r, n);
    for (size_t x = 0; x < stride_; ++x) weighted_[x] = value[x];
    for (size_t i = 0; i < n; ++i) {
      const float *a = at(r, k.column[i]), ki = static_cast<float>(k.of[i]);
      for (size_t x = 0; x < stride_; ++x) weighted_[x] -= ki * a[x];
    }
  }

  // Cholesky; a little is added to the diagonal.
  bool solve(size_t n, Solution& solution) {
    std::array<double, kMostTaps>& k = solution.of;
    const auto sum = [&](size_t i, size_t j) { return sums_[std::min(i, j)][std::max(i, j)]; };
    std::array<std::array<double, kMostTaps>, kMostTaps> l{};
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j <= i; ++j) {
        double v = sum(solution.column[i], solution.column[j]);
        if (i == j) v = v * 1.0001 + 1e-6;
        for (size_t m = 0; m < j; ++m) v -= l[i][m] * l[j][m];
        if (i != j) {
          l[i][j] = v / l[j][j];
        } else {
          if (!(v > 0)) return false;
          l[i][i] = std::sqrt(v);
        }
      }
    for (size_t i = 0; i < n; ++i) {
      double v = sum(solution.column[i], n);
      for (size_t m = 0; m < i; ++m) v -= l[i][m] * k[m];
      k[i] = v / l[i][i];
    }
    for (size_t i = n; i-- > 0;) {
      for (size_t m = i + 1; m < n; ++m) k[i] -= l[m][i] * k[m];
      k[i] /= l[i][i];
    }
    return true;
  }

  // The binary logarithm, linear between powers of two.
  static int32_t log2_of(float v) {
    int32_t bits;
    std::memcpy(&bits, &v, 4);
    return bits;
  }

  // Of the band, in bits.
  int64_t saving(const Sampled& sample, const Solution& k) {
    int64_t sum = 0;  // of the sample, 2^-23 bits
    for (size_t r = 0; r < sample.rows; ++r) {
      error(sample.taps, r, k);
      const float *value = at(r, sample.taps), *size = at(r, sample.taps + 1);
      for (size_t x = 0; x < stride_; ++x)
        sum += log2_of(std::abs(value[x]) + 0.5f * size[x]) - log2_of(std::abs(weighted_[x]) + 0.5f * size[x]);
    }
    return static_cast<int64_t>(static_cast<double>(sum) / (1 << 23) * sample.scale);
  }

  size_t stride_ = 0, columns_ = 0;
  std::vector<float> data_, weight_, weighted_;
  std::array<std::array<double, kMostTaps + 3>, kMostTaps + 3> sums_{};  // of products of columns
  bool left_ = false;
};

}  // namespace tilevault
