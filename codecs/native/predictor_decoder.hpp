// Planes of words from a stream of the predictor. Work per word is bounded, nothing is allocated that the
// extents and the fixed limits do not bound, and every table is checked before it is used.
#pragma once

#include "predictor.hpp"
#include "samples.hpp"
#include "varint.hpp"
#include "wavelet.hpp"

namespace tilevault::predictor {

namespace header {

constexpr unsigned kMostUnary = 24;

inline uint32_t get_rice(BitReader& r, unsigned k) {
  unsigned quotient = 0;
  while (quotient < kMostUnary && r.get_slow(1) == 0) ++quotient;
  if (quotient == kMostUnary) return r.get_slow(32);
  return quotient << k | r.get_slow(k);
}

// Coefficients of one tap, or the constants, of all classes.
inline void read_coefficients(BitReader& r, unsigned classes, std::array<int32_t, kMaxClasses>& out) {
  const unsigned k = r.get_slow(4);
  for (unsigned c = 0; c < classes; ++c) out[c] = unzigzag(get_rice(r, k));
}

inline Filters read_filters(BitReader& r) {
  Filters f;
  f.low = static_cast<int32_t>(r.get_slow(32));
  f.high = static_cast<int32_t>(r.get_slow(32));
  if (f.low > f.high) throw Corrupt("the least word is greater than the greatest");
  f.shift = r.get_slow(4);
  f.thresholds = r.get_slow(2);
  uint32_t before = 0;
  for (unsigned i = 0; i < f.thresholds; ++i) {
    const uint32_t step = get_gamma(r);
    if (step >= (1u << 24)) throw Corrupt("a threshold is too large");
    f.threshold[i] = before += step;
  }
  f.direction = r.get_slow(1) != 0;
  f.reference = r.get_slow(1) != 0;
  for (unsigned t = 0; t < (f.reference ? kAllTaps : kTaps); ++t) read_coefficients(r, f.classes(), f.taps[t]);
  read_coefficients(r, f.classes(), f.constant);
  return f;
}

}  // namespace header

class PredictorDecoder {
 public:
  // planes: extents and offsets, references still unknown (they are read). Fills their words.
  void decode(Bytes in, std::vector<Plane>& planes, int32_t* words) {
    BitReader r(in);
    size_t most_width = 0;
    for (const Plane& p : planes) most_width = std::max(most_width, p.width);
    read_header(r, planes);
    r.align();
    Bytes rest = r.rest();
    const size_t lanes = lanes_of(planes);
    for (size_t s = 0; s < lanes; ++s) lanes_[s].open(rest, most_width, s + 1 == lanes);
    for (auto& row : tokens_) row.resize(most_width);
    for (auto& row : residuals_) row.resize(most_width);
    for (size_t p = 0; p < planes.size(); ++p) decode_plane(planes, p, words);
    for (size_t s = 0; s < lanes; ++s) lanes_[s].expect_end();
  }

 private:
  // One stripe's streams: words of two states that take turns, and raw bits.
  struct Lane {
    uint32_t state[2];
    const uint8_t *at, *end;
    BitReader raw{Bytes{nullptr, 0}};
    std::vector<uint8_t> tail;
    bool in_tail;

    static Bytes take(Bytes& in, uint64_t size) {
      if (size > in.size) throw Corrupt("a stream is longer than what is left");
      const Bytes out{in.data, static_cast<size_t>(size)};
      in = {in.data + out.size, in.size - out.size};
      return out;
    }

    void open(Bytes& in, size_t most_width, bool last) {
      const Bytes stream = take(in, uint64_t{2} * frame::take_varint(in) + 8);
      raw = BitReader(take(in, last ? in.size : frame::take_varint(in)));
      for (int i = 0; i < 2; ++i) {
        state[i] = load_le32(stream.data + 4 * i);
        if (state[i] < ans::kLow) throw Corrupt("a state is out of range");
      }
      at = stream.data + 8;
      end = stream.data + stream.size;
      in_tail = false;
      most_width_ = most_width;
    }

    // A row takes at most one word per sample: then so many can be read without a look at the end.
    void secure() {
      if (in_tail || static_cast<size_t>(end - at) >= 2 * most_width_) return;
      const size_t left = static_cast<size_t>(end - at);
      tail.assign(left + 2 * most_width_, 0);
      std::copy(at, end, tail.begin());
      at = tail.data();
      end = at + left;
      in_tail = true;
    }
    void check() const {
      if (at > end) throw Corrupt("a stream ends before its content");
    }
    void expect_end() {
      if (at != end || state[0] != ans::kLow || state[1] != ans::kLow) throw Corrupt("a stream does not end where it should");
      raw.expect_end();
    }

    size_t most_width_;
  };

  void read_header(BitReader& r, std::vector<Plane>& planes) {
    const uint32_t per_group = get_gamma(r);
    if (per_group > planes.size()) throw Corrupt("a group has more planes than the tile");
    filters_.clear();
    for (size_t p = 0; p < planes.size(); ++p) {
      if (p % per_group == 0) filters_.push_back(header::read_filters(r));
      const Filters& f = filters_.back();
      planes[p].reference = -1;
      if (!f.reference) continue;
      const uint32_t back = get_gamma(r) - 1;
      if (back == 0) continue;
      if (back > p) throw Corrupt("a reference plane is none before");
      const Plane& to = planes[p - back];
      if (to.height != planes[p].height || to.width != planes[p].width) throw Corrupt("a reference plane has another size");
      planes[p].reference = static_cast<int>(p - back);
    }
    per_group_ = per_group;
    read_contexts(r);
  }

  void read_contexts(BitReader& r) {
    std::vector<uint32_t> runs;
    for (uint32_t at = 0; at < kContexts; at += runs.back()) {
      runs.push_back(get_gamma(r));
      if (runs.back() > kContexts - at || runs.size() > kMaxTables) throw Corrupt("the context map is longer than the contexts");
    }
    frequencies_.resize(runs.size());
    ans::read_frequencies(frequencies_, r);
    tables_.resize(runs.size());
    size_t context = 0;
    for (size_t t = 0; t < runs.size(); ++t) {
      tables_[t].build(frequencies_[t]);
      for (uint32_t i = 0; i < runs[t]; ++i) by_context_[context++] = &tables_[t];
    }
  }

  void decode_plane(const std::vector<Plane>& planes, size_t index, int32_t* words) {
    const Plane& plane = planes[index];
    const Filters& f = filters_[index / per_group_];
    const size_t count = stripes_of(plane), top = (plane.height + count - 1) / count;
    for (size_t s = 0; s < count; ++s)
      stripes_[s].start(planes, index, s * top, s == 0 ? top : plane.height - top, filters_, per_group_, words);
    for (size_t y = 0; y < top; ++y) {
      const bool both = count == 2 && !stripes_[1].done();
      const size_t active = both ? 2 : 1;
      for (size_t s = 0; s < active; ++s) {
        stripes_[s].survey();
        stripes_[s].sum(false);
        lanes_[s].secure();
      }
      run([&] { decode_rows(active); });
      for (size_t s = 0; s < active; ++s) {
        lanes_[s].check();
        if (lanes_[s].raw.overrun()) throw Corrupt("a bit stream ends before its content");
        const int32_t* row = stripes_[s].row();
        std::copy_n(row, plane.width, words + stripes_[s].offset());
        if (!inside(row, plane.width, f)) throw Corrupt("a word is outside the range of its plane");
        stripes_[s].next();
      }
    }
  }

  static bool inside(const int32_t* row, size_t width, const Filters& f) {
    int32_t outside = 0;
    for (size_t x = 0; x < width; ++x) outside |= static_cast<int32_t>(row[x] < f.low) | static_cast<int32_t>(row[x] > f.high);
    return outside == 0;
  }

  void decode_rows(size_t active) {
    if (active == 2) {
      decode_tokens<2>();
    } else {
      decode_tokens<1>();
    }
    const size_t width = stripes_[0].width();
    for (size_t s = 0; s < active; ++s) decode_residuals(s, width);
    if (active == 2 && !stripes_[0].first() && stripes_[0].filters().narrow()) {
      stripes_[0].small() ? restore_narrow_pair<true>() : restore_narrow_pair<false>();
      return;
    }
    for (size_t s = 0; s < active; ++s) restore(stripes_[s], residuals_[s].data());
  }

  // What one lane keeps in registers while a row is decoded.
  struct Hot {
    uint32_t state[2];
    const uint8_t* at;
    uint32_t west, west_west;
    const uint32_t* energy;
    uint8_t* tokens;
    uint16_t* magnitudes;
  };

  Hot hot(size_t s) {
    Lane& lane = lanes_[s];
    return {{lane.state[0], lane.state[1]}, lane.at, 0, 0, stripes_[s].energy(), tokens_[s].data(), stripes_[s].magnitudes()};
  }
  void cool(size_t s, const Hot& h) {
    lanes_[s].state[0] = h.state[0];
    lanes_[s].state[1] = h.state[1];
    lanes_[s].at = h.at;
  }

  template <unsigned kOdd>
  static void step(Hot& h, size_t x, const ans::SlotTable* const* by_context, const uint16_t* magnitude) {
    const uint32_t energy = h.energy[x] + 8 * (2 * h.west + h.west_west);
    const ans::SlotTable& table = *by_context[context_of(energy)];
    uint32_t state = h.state[kOdd];
    const unsigned token = table.token[state & (ans::kScale - 1)];
    state = ans::advance(state, table.steps[token]);
    const uint32_t refilled = state << 16 | load_le16(h.at);
    const bool low = state < ans::kLow;
    h.state[kOdd] = low ? refilled : state;
    h.at += low ? 2 : 0;
    h.west_west = h.west;
    h.west = magnitude[token];
    h.tokens[x] = static_cast<uint8_t>(token);
    h.magnitudes[x] = static_cast<uint16_t>(h.west);
  }

  template <unsigned kLanes>
  void decode_tokens() {
    const size_t width = stripes_[0].width();
    const ans::SlotTable* const* by_context = by_context_.data();
    const uint16_t* magnitude = token_table_.magnitude.data();
    Hot a = hot(0), b = hot(kLanes - 1);
    size_t x = 0;
    for (; x + 2 <= width; x += 2) {
      step<0>(a, x, by_context, magnitude);
      if (kLanes == 2) step<0>(b, x, by_context, magnitude);
      step<1>(a, x + 1, by_context, magnitude);
      if (kLanes == 2) step<1>(b, x + 1, by_context, magnitude);
    }
    if (x < width) {
      step<0>(a, x, by_context, magnitude);
      if (kLanes == 2) step<0>(b, x, by_context, magnitude);
    }
    cool(0, a);
    if (kLanes == 2) cool(1, b);
  }

  void decode_residuals(size_t s, size_t width) {
    const uint8_t* tokens = tokens_[s].data();
    int32_t* out = residuals_[s].data();
    BitReader r = lanes_[s].raw;  // a copy that stays in registers
    const uint32_t* base = token_table_.base.data();
    const uint8_t* raw = token_table_.raw.data();
    for (size_t x = 0; x < width; ++x) {
      const unsigned token = tokens[x];
      r.refill();
      out[x] = unzigzag(base[token] + r.take(raw[token]));
    }
    lanes_[s].raw = r;
  }

  // The chain through the left neighbours, of both stripes at once, where nothing can leave 32 bits.
  template <bool kSmall>
  void restore_narrow_pair() {
    struct Chain {
      int32_t west, west_west;
      const int32_t *sums, *classes, *n, *residuals;
      int32_t* out;
    };
    auto chain = [&](size_t s) -> Chain {
      Stripe& stripe = stripes_[s];
      const int32_t start = stripe.above()[0];
      return {start, start, stripe.sums(), stripe.classes(), stripe.above(), residuals_[s].data(), stripe.row()};
    };
    const Filters& f = stripes_[0].filters();
    const int32_t low = f.low, high = f.high;
    const int32_t *c0 = f.taps[0].data(), *c1 = f.taps[1].data();
    auto times = [](int32_t a, int32_t b) { return static_cast<uint32_t>(a) * static_cast<uint32_t>(b); };
    auto step_of = [&](Chain& c, size_t x) {
      const int32_t n = c.n[x], k = c.classes[x], from = kSmall ? low : n;
      const uint32_t known = static_cast<uint32_t>(c.sums[x]) + times(c1[k], lifting::sub(c.west_west, from)) - times(c0[k], from);
      const int32_t d = static_cast<int32_t>(known + times(c0[k], c.west)) >> kFraction;
      c.west_west = c.west;
      c.west = lifting::add(std::min(std::max(d, low - n), high - n), lifting::add(n, c.residuals[x]));
      c.out[x] = c.west;
    };
    Chain a = chain(0), b = chain(1);
    const size_t width = stripes_[0].width();
    for (size_t x = 0; x < width; ++x) {
      step_of(a, x);
      step_of(b, x);
    }
  }

  // The same for any words, one stripe.
  static void restore(Stripe& stripe, const int32_t* residuals) {
    const Filters& f = stripe.filters();
    const size_t width = stripe.width();
    int32_t* out = stripe.row();
    if (stripe.first()) {
      int32_t west = f.low;
      for (size_t x = 0; x < width; ++x) out[x] = west = lifting::add(west, residuals[x]);
      return;
    }
    const int32_t *n = stripe.above(), *sums = stripe.sums(), *classes = stripe.classes();
    for (size_t x = 0; x < width; ++x) {
      uint32_t sum = static_cast<uint32_t>(sums[x]);
      for (unsigned k = 0; k < kLeft; ++k) {
        const int32_t left = out[static_cast<std::ptrdiff_t>(x) - 1 - static_cast<std::ptrdiff_t>(k)];
        const int32_t d = lifting::sub(left, stripe.small() ? f.low : n[x]) >> f.shift;
        sum += static_cast<uint32_t>(d) * static_cast<uint32_t>(f.taps[k][static_cast<size_t>(classes[x])]);
      }
      out[x] = lifting::add(prediction(f, n[x], static_cast<int32_t>(sum)), residuals[x]);
    }
  }

 public:
  // From the sum over all taps, exactly.
  static int32_t prediction(const Filters& f, int32_t n, int32_t sum) {
    const int64_t exact = int64_t{n} + int64_t{sum >> kFraction} * (int64_t{1} << f.shift);
    return static_cast<int32_t>(std::clamp(exact, int64_t{f.low}, int64_t{f.high}));
  }

 private:
  size_t per_group_ = 1;
  std::vector<Filters> filters_;
  std::vector<ans::Frequencies> frequencies_;
  std::vector<ans::SlotTable> tables_;
  std::array<const ans::SlotTable*, kContexts> by_context_{};
  std::array<Lane, 2> lanes_;
  std::array<Stripe, 2> stripes_;
  std::array<std::vector<uint8_t>, 2> tokens_;
  std::array<std::vector<int32_t>, 2> residuals_;
  PredictorTokens token_table_;
};

}  // namespace tilevault::predictor
