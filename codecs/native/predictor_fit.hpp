// The coefficients of a group of planes: weighted least squares per class on a sample of its rows, with the
// weights renewed twice from the errors (iteratively reweighted towards least absolute errors, because a
// coder pays for the logarithm of an error and not for its square).
//
// Floats, but every sum in one order and no operation fused, so that every machine finds the same integers.
#pragma once

#include <cmath>

#include "predictor.hpp"

namespace tilevault::predictor {

class Fit {
 public:
  // all: the filters of the groups so far; of the last, whose planes are begin to end, the range and whether
  // there is a reference are known, the rest is found.
  void fit(const std::vector<Plane>& planes, size_t begin, size_t end, const int32_t* words, std::vector<Filters>& all) {
    Filters& f = all.back();
    all_ = &all;
    per_group_ = begin == 0 ? end : begin / (all.size() - 1);
    size_t samples = 0;
    for (size_t p = begin; p < end; ++p) samples += planes[p].height * planes[p].width;
    const uint64_t range = static_cast<uint64_t>(int64_t{f.high} - f.low);
    f.shift = 0;
    while ((range >> f.shift) >= (1u << 17) && f.shift < kMaxShift) ++f.shift;
    choose_rows(planes, begin, end, samples);
    set_classes(planes, words, samples, f);
    f.reference ? solve<24>(planes, words, f) : solve<16>(planes, words, f);
  }

 private:
  // A third of the rows is looked at, and a tenth of the samples taken, but within bounds: of each class the
  // same number as far as there are so many, because what is rare is what a flat image pays for.
  static constexpr size_t kLooked = 3, kTaken = 10, kLeast = 8192, kMost = 24576;
  static constexpr unsigned kRenewals = 2;

  struct Row {
    size_t plane, y;
  };

  // Every so many-th row that is not the first of its stripe.
  void choose_rows(const std::vector<Plane>& planes, size_t begin, size_t end, size_t samples) {
    rows_.clear();
    taken_ = std::clamp(samples / kTaken, kLeast, kMost);
    const size_t every = std::max<size_t>(1, samples / std::clamp(samples / kLooked, 2 * kLeast, 3 * kMost));
    size_t at = every / 2;
    for (size_t p = begin; p < end; ++p) {
      const size_t h = planes[p].height, count = stripes_of(planes[p]), top = (h + count - 1) / count;
      for (size_t y = 0; y < h; ++y, ++at)
        if (at % every == 0 && y % top != 0) rows_.push_back({p, y});
    }
  }

  // Every so many-th of the rows that are looked at; surveyed, or only the samples around.
  template <class Each>
  void each_row(const std::vector<Plane>& planes, const int32_t* words, size_t every, bool survey, Each&& each) {
    size_t plane = SIZE_MAX, half = SIZE_MAX;
    for (size_t i = 0; i < rows_.size(); i += every) {
      const Row& row = rows_[i];
      const Plane& p = planes[row.plane];
      const size_t count = stripes_of(p), top = (p.height + count - 1) / count, s = row.y / top;
      if (row.plane != plane || s != half) {
        stripe_.start(planes, row.plane, s * top, s == 0 ? top : p.height - top, *all_, per_group_, words);
        plane = row.plane;
        half = s;
      }
      stripe_.jump(row.y);
      survey ? stripe_.survey() : stripe_.load_reference();
      each(stripe_);
    }
  }

  void set_classes(const std::vector<Plane>& planes, const int32_t* words, size_t samples, Filters& f) {
    const unsigned wanted = samples >= 49152 ? 3 : samples >= 12288 ? 1 : 0;
    activity_.clear();
    size_t flat = 0;
    each_row(planes, words, 3, true, [&](const Stripe& s) {
      for (size_t x = 0; x < s.width(); ++x) {
        const uint32_t a = s.energy()[x];
        flat += a == 0;
        if (a != 0) activity_.push_back(a);
      }
    });
    const size_t all = flat + activity_.size();
    unsigned found = 0;
    uint32_t before = 0;
    // Where much is flat, that is a class by itself.
    const bool apart = flat * (wanted + 1) > all;
    for (unsigned k = 1; k <= wanted; ++k) {
      uint32_t threshold = 1;
      if (!(apart && k == 1)) {
        const size_t skipped = apart ? 0 : flat;
        const size_t of = activity_.size() + skipped, parts = wanted + (apart ? 0 : 1), part = k - (apart ? 1 : 0);
        const size_t rank = of * part / parts;
        if (rank < skipped || rank - skipped >= activity_.size()) continue;
        const auto at = activity_.begin() + static_cast<std::ptrdiff_t>(rank - skipped);
        std::nth_element(activity_.begin(), at, activity_.end());
        threshold = (*at * 4 + 2) / 3;  // the energy has three quarters of the activity
      }
      if (threshold <= before) continue;
      f.threshold[found++] = before = threshold;
    }
    f.thresholds = found;
    f.direction = samples >= 4096;
  }

  // A sample is kSize floats: the taps, 1 for the constant, the target.
  template <unsigned kSize>
  void solve(const std::vector<Plane>& planes, const int32_t* words, Filters& f) {
    gather<kSize>(planes, words, f);
    const unsigned unknowns = kSize - 1;
    for (unsigned c = 0; c < f.classes(); ++c) {
      std::array<float, kSize> solution{};
      bool solved = false;
      const size_t from = starts_[c], to = starts_[c + 1];
      if (to - from >= 2 * unknowns) {
        for (unsigned i = 0; i <= kRenewals; ++i) {
          if (i != 0) run([&] { renew<kSize>(solution, from, to); });
          run_widest([&] { accumulate<kSize, kSize % 16 == 0 ? 16 : 8>(from, to); }, [&] { accumulate<kSize, 8>(from, to); });
          solved = cholesky<kSize>(solution);
          if (!solved) break;
        }
      }
      for (unsigned k = 0; k + 1 < unknowns; ++k) f.taps[k][c] = solved ? fixed(solution[k], 32767) : 0;
      f.constant[c] = (solved ? fixed(solution[unknowns - 1], 1 << 24) : 0) + (1 << (kFraction - 1));
      if (!solved) {  // W + N - NW
        f.taps[0][c] = 1 << kFraction;
        f.taps[2][c] = -(1 << kFraction);
      }
    }
  }

  static int32_t fixed(float v, int32_t limit) {
    const double scaled = std::floor(double{v} * (1 << kFraction) + 0.5);
    return static_cast<int32_t>(std::clamp(scaled, -double(limit), double(limit)));
  }

  template <unsigned kSize>
  void gather(const std::vector<Plane>& planes, const int32_t* words, const Filters& f) {
    std::array<size_t, kMaxClasses> count{};
    seen_.clear();
    each_row(planes, words, 1, true, [&](const Stripe& s) {
      for (size_t x = 0; x < s.width(); ++x) {
        const auto c = static_cast<uint32_t>(s.classes()[x]);
        ++count[c];
        seen_.push_back(s.energy()[x] << 3 | c);
      }
    });
    // Every n-th of a class is taken, n being no whole number.
    std::array<size_t, kMaxClasses> looked = count, pace{};
    for (size_t& n : count) n = std::min(n, taken_ / f.classes());
    starts_[0] = 0;
    // Four samples are taken at a time: classes begin at multiples of four, the rest weighs nothing.
    for (unsigned c = 0; c < kMaxClasses; ++c) starts_[c + 1] = starts_[c] + (count[c] + 3) / 4 * 4;
    samples_.resize(starts_[kMaxClasses] * kSize);
    weights_.assign(starts_[kMaxClasses], 0.0f);
    std::array<size_t, kMaxClasses> next;
    std::copy_n(starts_.begin(), kMaxClasses, next.begin());
    const uint32_t* seen = seen_.data();
    each_row(planes, words, 1, false, [&](const Stripe& s) {
      std::array<Tap, kAllTaps> taps;
      const unsigned n = s.taps(taps, 0);
      for (size_t x = 0; x < s.width(); ++x, ++seen) {
        const size_t c = *seen & 7u;
        if ((pace[c] += count[c]) < looked[c]) continue;
        pace[c] -= looked[c];
        const size_t at = next[c]++;
        float* v = &samples_[at * kSize];
        auto difference = [&](int32_t a, int32_t b) {
          return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)) >> f.shift);
        };
        for (unsigned k = 0; k < n; ++k) v[k] = difference(taps[k].at[x], taps[k].relative_to[x]);
        for (unsigned k = n; k < kSize - 2; ++k) v[k] = 0.0f;
        v[kSize - 2] = 1.0f;
        v[kSize - 1] = difference(s.row()[x], s.above()[x]);
        weights_[at] = 1.0f / (static_cast<float>(*seen >> 3) + 3.0f);
      }
    });
    for (unsigned c = 0; c < kMaxClasses; ++c)
      std::fill(samples_.begin() + static_cast<std::ptrdiff_t>(next[c] * kSize), samples_.begin() + static_cast<std::ptrdiff_t>(starts_[c + 1] * kSize), 0.0f);
  }

  // Weights from the errors.
  template <unsigned kSize>
  void renew(const std::array<float, kSize>& solution, size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      if (weights_[i] == 0.0f) continue;
      const float* v = &samples_[i * kSize];
      std::array<float, 8> part{};
      for (unsigned k = 0; k < kSize; k += 8)
        for (unsigned j = 0; j < 8; ++j) part[j] += v[k + j] * solution[k + j];
      const float sum = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
      weights_[i] = 1.0f / (std::fabs(v[kSize - 1] - sum) + 2.0f);
    }
  }

  // The upper triangle of the sum of weight times sample times sample, in pieces that floats hold well. kBlock:
  // how many columns are taken at a time; what is found beside the triangle does not matter.
  template <unsigned kSize, unsigned kBlock>
  void accumulate(size_t from, size_t to) {
    normal_.fill(0.0);
    alignas(64) float piece[kSize * kSize];
    for (size_t begin = from; begin < to; begin += 256) {
      std::fill(piece, piece + kSize * kSize, 0.0f);
      for (size_t i = begin; i < std::min(to, begin + 256); i += 4) {
        const float *a = &samples_[i * kSize], *b = a + kSize, *c = b + kSize, *d = c + kSize;
        for (unsigned r = 0; r + 1 < kSize; ++r) {
          const float wa = weights_[i] * a[r], wb = weights_[i + 1] * b[r], wc = weights_[i + 2] * c[r], wd = weights_[i + 3] * d[r];
          float* row = piece + r * kSize;
          for (unsigned k = r / kBlock * kBlock; k < kSize; k += kBlock)
            for (unsigned j = k; j < k + kBlock; ++j) row[j] += ((wa * a[j] + wb * b[j]) + wc * c[j]) + wd * d[j];
        }
      }
      for (unsigned r = 0; r < kSize; ++r)
        for (unsigned j = r; j < kSize; ++j) normal_[r * kSize + j] += double{piece[r * kSize + j]};
    }
  }

  template <unsigned kSize>
  bool cholesky(std::array<float, kSize>& solution) {
    constexpr unsigned n = kSize - 1;
    double trace = 0;
    for (unsigned i = 0; i + 1 < n; ++i) trace += normal_[i * kSize + i];
    const double weight = normal_[(n - 1) * kSize + n - 1], ridge = 1e-5 * trace / (n - 1) + 1e-6 * weight + 1e-9;
    std::array<double, n * n> l{};
    std::array<double, n> z{}, out{};
    for (unsigned i = 0; i < n; ++i)
      for (unsigned j = 0; j <= i; ++j) {
        double sum = normal_[j * kSize + i] + (i == j ? ridge : 0.0);
        for (unsigned k = 0; k < j; ++k) sum -= l[i * n + k] * l[j * n + k];
        if (i == j && !(sum > 0)) return false;
        l[i * n + j] = i == j ? std::sqrt(sum) : sum / l[j * n + j];
      }
    for (unsigned i = 0; i < n; ++i) {
      double sum = normal_[i * kSize + n];
      for (unsigned k = 0; k < i; ++k) sum -= l[i * n + k] * z[k];
      z[i] = sum / l[i * n + i];
    }
    for (unsigned i = n; i-- > 0;) {
      double sum = z[i];
      for (unsigned k = i + 1; k < n; ++k) sum -= l[k * n + i] * out[k];
      out[i] = sum / l[i * n + i];
    }
    for (unsigned i = 0; i < n; ++i) {
      if (!std::isfinite(out[i])) return false;
      solution[i] = static_cast<float>(out[i]);
    }
    solution[n] = 0.0f;
    return true;
  }

  Stripe stripe_;
  size_t taken_ = 0;
  const std::vector<Filters>* all_ = nullptr;
  size_t per_group_ = 1;
  std::vector<Row> rows_;
  std::vector<uint32_t> activity_;
  std::vector<uint32_t> seen_;  // energy and, in the lowest three bits, class
  std::vector<float> samples_, weights_;
  std::array<size_t, kMaxClasses + 1> starts_{};
  alignas(32) std::array<double, 24 * 24> normal_{};
};

}  // namespace tilevault::predictor
