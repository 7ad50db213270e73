// Least-squares prediction of the samples of a plane: what encoder and decoder must agree on.
//
// A sample is predicted from its left neighbours, the three rows above and, where the plane has a
// reference, the same place in an earlier plane. The coefficients are fitted by the encoder, for each
// class of texture its own, and sent as integers. Classes and all products but those with the left
// neighbours need earlier rows only, so that they are one vectorised pass per row. A plane is two
// stripes, which a decoder walks down together: the chain through the left neighbours of the one hides
// that of the other.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "ans.hpp"
#include "cpu.hpp"

namespace tilevault::predictor {

struct Offset {
  int y, x;
};
// In the order of the stream. The first two are of the row itself.
constexpr unsigned kTaps = 14, kLeft = 2;
constexpr Offset kNeighbours[kTaps] = {{0, -1},  {0, -2}, {-1, -1}, {-1, 1},  {-1, -2}, {-1, 2}, {-2, 0},
                                       {-2, -1}, {-2, 1}, {-2, -2}, {-2, 2}, {-3, 0},  {-1, 3}, {-1, -3}};
// In the reference plane; {-1, 0} is what the others are taken relative to.
constexpr unsigned kReferenceTaps = 8;
constexpr Offset kReferenceNeighbours[kReferenceTaps] = {{0, 0}, {-1, -1}, {-1, 1}, {0, -1}, {0, 1}, {1, -1}, {1, 0}, {1, 1}};
constexpr unsigned kAllTaps = kTaps + kReferenceTaps;

constexpr unsigned kFraction = 10;     // bits of a coefficient below the point
constexpr unsigned kMaxThresholds = 3;
constexpr unsigned kMaxClasses = 8;
constexpr unsigned kMaxShift = 15;
constexpr size_t kPad = 4;             // samples beside a row
constexpr size_t kTwoStripes = 128;    // rows from which a plane is two stripes
constexpr uint32_t kDifferenceCap = 1u << 16;
constexpr uint32_t kMagnitudeCap = 32767;

constexpr unsigned kContexts = 84;     // quarter octaves of an energy below 2^22
constexpr unsigned kMaxTables = 32;

struct Plane {
  size_t height, width;
  size_t offset;    // of its first word
  int reference;    // an earlier plane of the same size, or -1
};

inline size_t stripes_of(const Plane& p) { return p.height >= kTwoStripes ? 2 : 1; }

// Streams of a tile: as many as its planes have stripes at most.
inline size_t lanes_of(const std::vector<Plane>& planes) {
  size_t lanes = 1;
  for (const Plane& p : planes) lanes = std::max(lanes, stripes_of(p));
  return lanes;
}

// What a group of planes shares.
struct Filters {
  int32_t low = 0, high = 0;  // the least and the greatest word
  unsigned shift = 0;         // of the differences, for words of many bits
  unsigned thresholds = 0;
  std::array<uint32_t, kMaxThresholds> threshold{};  // ascending
  bool direction = false;     // classes tell steep rows from steep columns
  bool reference = false;     // the reference taps are there
  // Coefficients and the constant, by class.
  alignas(32) std::array<std::array<int32_t, kMaxClasses>, kAllTaps> taps{};
  alignas(32) std::array<int32_t, kMaxClasses> constant{};

  unsigned classes() const { return (thresholds + 1) << (direction ? 1 : 0); }
  // Neither sums of neighbours nor bounds relative to one leave 32 bits.
  bool narrow() const { return shift == 0 && int64_t{high} - low < (1 << 20); }
};

// The magnitude by which a token counts in an energy: the middle of its values, halved by the zigzag.
inline uint16_t token_magnitude(unsigned token) {
  const uint64_t middle = token_base(token) + (uint64_t{1} << raw_bits(token) >> 1);
  return static_cast<uint16_t>(std::min<uint64_t>((token < kDirect ? token + 1 : middle + 1) >> 1, kMagnitudeCap));
}

// What is asked of tokens in the loops, once for all of them.
struct PredictorTokens : TokenTable {
  std::array<uint16_t, kTokens> magnitude;
  PredictorTokens() {
    for (unsigned i = 0; i < kTokens; ++i) magnitude[i] = token_magnitude(i);
  }
};

// Quarter octaves of energy + 4.
inline unsigned context_of(uint32_t energy) {
  const uint32_t e = energy + 4;
  const unsigned k = 31 - static_cast<unsigned>(__builtin_clz(e));
  return 4 * k + (e >> (k - 2)) - 12;
}

// Pointers to what a row needs; readable from -kPad to width + kPad - 1.
struct RowView {
  size_t width;
  const int32_t *n, *nn;
  const uint16_t *magnitude_n, *magnitude_nn;
  uint32_t *across, *down;  // scratch
};

// A tap: where its samples lie, what they are taken relative to, its coefficient by class.
struct Tap {
  const int32_t *at, *relative_to, *coefficients;
};
// Two rows of 16 bits; by class, the coefficient of the first and, 16 bits above it, that of the second.
struct Pair {
  const int16_t *first, *second;
  const int32_t* coefficients;
};

}  // namespace tilevault::predictor

// The kernels of a row, once plain and once for AVX2.
namespace tilevault::predictor::plain {
#include "predictor_rows.hpp"
}
#ifdef TILEVAULT_DISPATCH
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt")
#include <immintrin.h>
#define TILEVAULT_ROWS_AVX2 1
namespace tilevault::predictor::avx2 {
#include "predictor_rows.hpp"
}
#undef TILEVAULT_ROWS_AVX2
#pragma GCC pop_options
#endif

namespace tilevault::predictor {

inline void classify(const RowView& r, const Filters& f, int32_t* classes, uint32_t* energy) {
#ifdef TILEVAULT_DISPATCH
  if (has_avx2()) return avx2::classify(r, f, classes, energy);
#endif
  plain::classify(r, f, classes, energy);
}

inline void add_taps(const Tap* taps, unsigned count, const int32_t* constant, const int32_t* classes, size_t width,
                     unsigned shift, int32_t* sums) {
#ifdef TILEVAULT_DISPATCH
  if (has_avx2()) return avx2::add_taps(taps, count, constant, classes, width, shift, sums);
#endif
  plain::add_taps(taps, count, constant, classes, width, shift, sums);
}

inline void add_pairs(const Pair* pairs, unsigned count, const int32_t* constant, const int32_t* classes, size_t width, int32_t* sums) {
#ifdef TILEVAULT_DISPATCH
  if (has_avx2()) return avx2::add_pairs(pairs, count, constant, classes, width, sums);
#endif
  plain::add_pairs(pairs, count, constant, classes, width, sums);
}

// One row with room on both sides.
template <class T>
class Padded {
 public:
  void assign(size_t width) { v_.assign(width + 2 * kPad, T{}); }
  T* at() { return v_.data() + kPad; }
  const T* at() const { return v_.data() + kPad; }
  friend void swap(Padded& a, Padded& b) { a.v_.swap(b.v_); }

 private:
  std::vector<T> v_;
};

// Walks down the rows of one stripe: prepare(), then whoever uses it fills row() and magnitudes(), then next().
class Stripe {
 public:
  // Rows first to first + rows of planes[index]. all: the filters of the tile's groups.
  void start(const std::vector<Plane>& planes, size_t index, size_t first, size_t rows, const std::vector<Filters>& all,
             size_t per_group, const int32_t* words) {
    plane_ = planes[index];
    y_ = first_ = first;
    end_ = first + rows;
    filters_ = &all[index / per_group];
    words_ = words;
    const size_t w = plane_.width;
    for (Padded<int32_t>* row : {&now_, &n_, &nn_, &nnn_, &classes_, &sums_}) row->assign(w);
    for (Padded<uint16_t>* row : {&magnitude_, &magnitude_n_, &magnitude_nn_}) row->assign(w);
    for (Padded<uint32_t>* row : {&energy_, &across_, &down_}) row->assign(w);
    small_ = fits_small(*filters_);
    if (has_reference()) {
      const size_t reference = static_cast<size_t>(plane_.reference);
      reference_at_ = words + planes[reference].offset;
      const Filters& of = all[reference / per_group];
      reference_low_ = of.low;
      small_ = small_ && int64_t{of.high} - of.low < (1 << 15);
    }
    if (has_reference())
      for (auto& row : reference_) row.assign(w);
    if (!small_) return;
    for (Padded<int16_t>& row : small_rows_) row.assign(w);
    if (has_reference())
      for (Padded<int16_t>& row : small_reference_) row.assign(w);
    prepare_pairs();
  }

  // To row y without the rows before it; magnitudes are as if nothing had been coded.
  void jump(size_t y) {
    y_ = y;
    Padded<int32_t>* rows[4] = {&now_, &n_, &nn_, &nnn_};
    for (size_t i = 0; i < 4; ++i) load(*rows[i], y - first_ < i ? first_ : y - i);
  }

  bool done() const { return y_ == end_; }
  bool first() const { return y_ == first_; }
  // Sums are relative to the least word instead of to the sample above.
  bool small() const { return small_; }
  size_t width() const { return plane_.width; }
  size_t offset() const { return plane_.offset + y_ * plane_.width; }
  const Filters& filters() const { return *filters_; }
  int32_t* row() { return now_.at(); }
  const int32_t* row() const { return now_.at(); }
  const int32_t* above() const { return n_.at(); }
  uint16_t* magnitudes() { return magnitude_.at(); }
  const int32_t* classes() const { return classes_.at(); }
  const uint32_t* energy() const { return energy_.at(); }
  const int32_t* sums() const { return sums_.at(); }

  // Classes and energies. Of a stripe's first row there is nothing to know: its energies are zero.
  void survey() {
    if (first()) return;
    int32_t* now = now_.at();
    const int32_t* n = n_.at();
    std::fill(now - kPad, now, n[0]);
    classify({width(), n, nn_.at(), magnitude_n_.at(), magnitude_nn_.at(), across_.at(), down_.at()}, *filters_, classes_.at(), energy_.at());
    load_reference();
  }

  // The rows of the reference, without the survey.
  void load_reference() {
    if (!has_reference()) return;
    for (int i = 0; i < 3; ++i) load_reference(i);
  }

  // The sums over the taps: those of earlier rows and the reference, or all where the row itself is known.
  void sum(bool all) {
    if (first()) return;
    const unsigned first_tap = all ? 0 : kLeft;
    if (small_) {
      if (all) narrow_row(now_, small_rows_[0], filters_->low);
      const unsigned skipped = first_tap / 2;
      add_pairs(pairs_.data() + skipped, pair_count_ - skipped, filters_->constant.data(), classes_.at(), width(), sums_.at());
      return;
    }
    std::array<Tap, kAllTaps> to;
    const unsigned count = taps(to, first_tap);
    add_taps(to.data(), count, filters_->constant.data(), classes_.at(), width(), filters_->shift, sums_.at());
  }

  // The taps of the row from first_tap on; those of the reference follow.
  unsigned taps(std::array<Tap, kAllTaps>& to, unsigned first_tap) const {
    unsigned count = 0;
    const int32_t* rows[4] = {now_.at(), n_.at(), nn_.at(), nnn_.at()};
    for (unsigned k = first_tap; k < kTaps; ++k)
      to[count++] = {rows[-kNeighbours[k].y] + kNeighbours[k].x, n_.at(), filters_->taps[k].data()};
    if (!has_reference()) return count;
    for (unsigned k = 0; k < kReferenceTaps; ++k)
      to[count++] = {reference_[kReferenceNeighbours[k].y + 1].at() + kReferenceNeighbours[k].x, reference_[0].at(),
                     filters_->taps[kTaps + k].data()};
    return count;
  }

  void next() {
    int32_t* now = now_.at();
    const size_t w = width();
    if (first()) std::fill(now - kPad, now, now[0]);
    std::fill(now + w, now + w + kPad, now[w - 1]);
    swap(nnn_, nn_);
    swap(nn_, n_);
    swap(n_, now_);
    if (first()) {
      nn_ = n_;
      nnn_ = n_;
    }
    if (small_) next_small();
    swap(magnitude_nn_, magnitude_n_);
    swap(magnitude_n_, magnitude_);
    ++y_;
  }

 private:
  static constexpr unsigned kMaxPairs = (kAllTaps + 3) / 2;

  bool has_reference() const { return plane_.reference >= 0 && filters_->reference; }

  static bool fits(int32_t v) { return v == static_cast<int16_t>(v); }

  // Words less the least one fit 15 bits, and every coefficient and their sum 16.
  static bool fits_small(const Filters& f) {
    if (f.shift != 0 || int64_t{f.high} - f.low >= (1 << 15)) return false;
    for (unsigned c = 0; c < kMaxClasses; ++c) {
      int64_t sums[2] = {0, 0};
      for (unsigned k = 0; k < kAllTaps; ++k) {
        if (!fits(f.taps[k][c])) return false;
        sums[k < kTaps ? 0 : 1] += f.taps[k][c];
      }
      if (sums[0] < -32767 || sums[0] > 32767 || sums[1] < -32767 || sums[1] > 32767) return false;
    }
    return true;
  }

  void prepare_pairs() {
    std::array<std::array<int32_t, kMaxClasses>, 2 * kMaxPairs> coefficients{};
    unsigned count = 0;
    pair_rows_.fill({0, 0, false});
    auto put = [&](int y, int x, bool reference) {
      pair_rows_[count] = {y, x, reference};
      return count++;
    };
    for (unsigned k = 0; k < kTaps; ++k) coefficients[put(-kNeighbours[k].y, kNeighbours[k].x, false)] = filters_->taps[k];
    const unsigned n = put(1, 0, false);
    for (unsigned k = 0; k < kTaps; ++k)
      for (unsigned c = 0; c < kMaxClasses; ++c) coefficients[n][c] -= filters_->taps[k][c];
    if (has_reference()) {
      for (unsigned k = 0; k < kReferenceTaps; ++k)
        coefficients[put(kReferenceNeighbours[k].y + 1, kReferenceNeighbours[k].x, true)] = filters_->taps[kTaps + k];
      const unsigned r = put(0, 0, true);
      for (unsigned k = 0; k < kReferenceTaps; ++k)
        for (unsigned c = 0; c < kMaxClasses; ++c) coefficients[r][c] -= filters_->taps[kTaps + k][c];
    }
    if (count % 2 != 0) put(1, 0, false);
    pair_count_ = count / 2;
    for (unsigned i = 0; i < pair_count_; ++i)
      for (unsigned c = 0; c < kMaxClasses; ++c)
        pair_coefficients_[i][c] = static_cast<int32_t>((static_cast<uint32_t>(coefficients[2 * i][c]) & 0xFFFFu) |
                                                        static_cast<uint32_t>(coefficients[2 * i + 1][c]) << 16);
    aim_pairs();
  }

  // Rows change places from row to row.
  void aim_pairs() {
    auto at = [&](const PairRow& r) -> const int16_t* { return (r.reference ? small_reference_[r.y] : small_rows_[r.y]).at() + r.x; };
    for (unsigned i = 0; i < pair_count_; ++i)
      pairs_[i] = {at(pair_rows_[2 * i]), at(pair_rows_[2 * i + 1]), pair_coefficients_[i].data()};
  }

  void narrow_row(const Padded<int32_t>& from, Padded<int16_t>& to, int32_t low) const {
    const int32_t* a = from.at() - kPad;
    int16_t* b = to.at() - kPad;
    const size_t n = width() + 2 * kPad;
    for (size_t i = 0; i < n; ++i) b[i] = static_cast<int16_t>(static_cast<uint32_t>(a[i]) - static_cast<uint32_t>(low));
  }

  // n_ is the row that was finished.
  void next_small() {
    swap(small_rows_[3], small_rows_[2]);
    swap(small_rows_[2], small_rows_[1]);
    swap(small_rows_[1], small_rows_[0]);
    narrow_row(n_, small_rows_[1], filters_->low);
    if (first()) {
      small_rows_[2] = small_rows_[1];
      small_rows_[3] = small_rows_[1];
    }
    aim_pairs();
  }

  void load(Padded<int32_t>& row, size_t y) {
    const size_t w = width();
    const int32_t* from = words_ + plane_.offset + y * w;
    int32_t* to = row.at();
    std::copy_n(from, w, to);
    std::fill(to - kPad, to, y == first_ ? from[0] : *(from - w));
    std::fill(to + w, to + w + kPad, from[w - 1]);
  }

  // Row y - 1 + i of the reference, the border repeated beyond it.
  void load_reference(int i) {
    const size_t y = std::min(y_ - 1 + static_cast<size_t>(i), plane_.height - 1), w = width();
    const int32_t* from = reference_at_ + y * w;
    int32_t* to = reference_[i].at();
    std::copy_n(from, w, to);
    std::fill(to - kPad, to, from[0]);
    std::fill(to + w, to + w + kPad, from[w - 1]);
    if (small_) narrow_row(reference_[i], small_reference_[i], reference_low_);
  }

  struct PairRow {
    int y, x;
    bool reference;
  };

  Plane plane_{};
  size_t y_ = 0, first_ = 0, end_ = 0;
  const Filters* filters_ = nullptr;
  const int32_t *words_ = nullptr, *reference_at_ = nullptr;
  int32_t reference_low_ = 0;
  bool small_ = false;
  Padded<int32_t> now_, n_, nn_, nnn_, reference_[3], classes_, sums_;
  Padded<uint16_t> magnitude_, magnitude_n_, magnitude_nn_;
  Padded<uint32_t> energy_, across_, down_;
  Padded<int16_t> small_rows_[4], small_reference_[3];  // the same less the least word: now_, n_, nn_, nnn_
  unsigned pair_count_ = 0;
  std::array<PairRow, 2 * kMaxPairs> pair_rows_{};
  std::array<Pair, kMaxPairs> pairs_{};
  alignas(32) std::array<std::array<int32_t, kMaxClasses>, kMaxPairs> pair_coefficients_{};
};

}  // namespace tilevault::predictor
