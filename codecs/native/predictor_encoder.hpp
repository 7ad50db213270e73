// Planes of words to a stream of the predictor: filters fitted, tokens and contexts found going down the
// rows, contexts merged into tables, and everything coded backwards.
#pragma once

#include "encoder.hpp"
#include "predictor_decoder.hpp"
#include "predictor_fit.hpp"

namespace tilevault::predictor {

namespace header {

inline void put_rice(BitWriter& w, uint32_t v, unsigned k) {
  const uint32_t quotient = v >> k;
  if (quotient < kMostUnary) {
    w.put_slow(uint64_t{1} << quotient, quotient + 1);
    w.put_slow(v & ((1u << k) - 1), k);
  } else {
    w.put_slow(0, kMostUnary);
    w.put_slow(v, 32);
  }
}

inline void write_coefficients(BitWriter& w, unsigned classes, const std::array<int32_t, kMaxClasses>& values) {
  unsigned best = 0;
  uint64_t least = ~uint64_t{0};
  for (unsigned k = 0; k < 16; ++k) {
    uint64_t bits = 0;
    for (unsigned c = 0; c < classes; ++c) {
      const uint32_t quotient = zigzag(values[c]) >> k;
      bits += quotient < kMostUnary ? quotient + 1 + k : kMostUnary + 32;
    }
    if (bits < least) {
      least = bits;
      best = k;
    }
  }
  w.put_slow(best, 4);
  for (unsigned c = 0; c < classes; ++c) put_rice(w, zigzag(values[c]), best);
}

inline void write_filters(BitWriter& w, const Filters& f) {
  w.put_slow(static_cast<uint32_t>(f.low), 32);
  w.put_slow(static_cast<uint32_t>(f.high), 32);
  w.put_slow(f.shift, 4);
  w.put_slow(f.thresholds, 2);
  for (unsigned i = 0; i < f.thresholds; ++i) put_gamma(w, f.threshold[i] - (i == 0 ? 0 : f.threshold[i - 1]));
  w.put_slow(f.direction, 1);
  w.put_slow(f.reference, 1);
  for (unsigned t = 0; t < (f.reference ? kAllTaps : kTaps); ++t) write_coefficients(w, f.classes(), f.taps[t]);
  write_coefficients(w, f.classes(), f.constant);
}

}  // namespace header

class PredictorEncoder {
 public:
  PredictorEncoder() {
    for (unsigned z = 0; z < kSmall; ++z) small_tokens_[z] = static_cast<uint8_t>(token_of(z));
  }

  // Appends the stream of the planes' words to out. References are chosen here.
  void encode(const int32_t* words, std::vector<Plane>& planes, std::vector<uint8_t>& out) {
    const size_t per_group = group_size(planes);
    filters_.clear();
    size_t samples = 0;
    for (size_t begin = 0; begin < planes.size(); begin += per_group) {
      const size_t end = std::min(planes.size(), begin + per_group);
      Filters f;
      range(planes, begin, end, words, f);
      refer(planes, begin, end, words, f);
      filters_.push_back(f);
      fit_.fit(planes, begin, end, words, filters_);
    }
    for (const Plane& p : planes) samples = std::max(samples, p.offset + p.height * p.width);
    tokens_.resize(samples);
    contexts_.resize(samples);
    counts_.assign(kContexts, Counts{});
    for (auto& raw : raw_out_) raw.clear();
    {
      BitWriter first(raw_out_[0]), second(raw_out_[1]);
      BitWriter* raw[2] = {&first, &second};
      for (size_t p = 0; p < planes.size(); ++p)
        for (size_t s = 0; s < stripes_of(planes[p]); ++s) model_stripe(planes, p, s, per_group, words, *raw[s]);
      first.finish();
      second.finish();
    }
    merge_contexts();
    write_header(planes, per_group, out);
    const size_t lanes = lanes_of(planes);
    for (size_t lane = 0; lane < lanes; ++lane) write_lane(planes, lane, lane + 1 == lanes, out);
  }

 private:
  using Counts = std::array<uint32_t, kTokens>;
  static constexpr unsigned kSmall = 4096;  // tokens of values below this come from a table
  static constexpr size_t kGroup = 49152;   // samples that pay for filters of their own

  static size_t group_size(const std::vector<Plane>& planes) {
    const size_t size = std::max<size_t>(1, planes[0].height * planes[0].width);
    return std::clamp<size_t>(kGroup / size, 1, planes.size());
  }

  static void range(const std::vector<Plane>& planes, size_t begin, size_t end, const int32_t* words, Filters& f) {
    f.low = INT32_MAX;
    f.high = INT32_MIN;
    for (size_t p = begin; p < end; ++p) {
      const int32_t* at = words + planes[p].offset;
      const size_t n = planes[p].height * planes[p].width;
      int32_t low = f.low, high = f.high;
      for (size_t i = 0; i < n; ++i) {
        low = std::min(low, at[i]);
        high = std::max(high, at[i]);
      }
      f.low = low;
      f.high = high;
    }
  }

  // How well differences to the row above in one plane tell those of another: the squared correlation.
  // Taken in floats of one order, so that every machine chooses alike.
  static float correlation(const Plane& a, const Plane& b, const int32_t* words) {
    std::array<float, 8> aa{}, bb{}, ab{};
    const size_t every = std::max<size_t>(1, a.height / 32), w = a.width;
    for (size_t y = 1; y < a.height; y += every) {
      const int32_t *p = words + a.offset + y * w, *q = words + b.offset + y * w;
      const int32_t *above = p - w, *other = q - w;
      for (size_t x = 0; x + 8 <= w; x += 8)
        for (unsigned j = 0; j < 8; ++j) {
          const float u = static_cast<float>(difference(p[x + j], above[x + j])), v = static_cast<float>(difference(q[x + j], other[x + j]));
          aa[j] += u * u;
          bb[j] += v * v;
          ab[j] += u * v;
        }
    }
    for (unsigned j = 1; j < 8; ++j) {
      aa[0] += aa[j];
      bb[0] += bb[j];
      ab[0] += ab[j];
    }
    return aa[0] > 0 && bb[0] > 0 ? ab[0] / aa[0] * (ab[0] / bb[0]) : 0.0f;
  }

  // Of one plane the best earlier one; of a group of small planes always the plane before.
  static void refer(std::vector<Plane>& planes, size_t begin, size_t end, const int32_t* words, Filters& f) {
    constexpr float kWorth = 0.05f;
    const bool group = end - begin > 1;
    float sum = 0;
    for (size_t p = begin; p < end; ++p) {
      planes[p].reference = -1;
      float best = group ? 0.0f : kWorth;
      for (size_t back = 1; back <= std::min<size_t>(p, group ? 1 : 15); ++back) {
        const Plane& to = planes[p - back];
        if (to.height != planes[p].height || to.width != planes[p].width) continue;
        float c = 0;
        run([&] { c = correlation(planes[p], to, words); });
        if (c <= best) continue;
        best = c;
        planes[p].reference = static_cast<int>(p - back);
      }
      if (planes[p].reference >= 0) sum += best;
    }
    f.reference = sum > kWorth * static_cast<float>(end - begin);
    if (!f.reference)
      for (size_t p = begin; p < end; ++p) planes[p].reference = -1;
  }

  void model_stripe(const std::vector<Plane>& planes, size_t p, size_t s, size_t per_group, const int32_t* words, BitWriter& raw) {
    const Plane& plane = planes[p];
    const size_t count = stripes_of(plane), top = (plane.height + count - 1) / count;
    stripe_.start(planes, p, s * top, s == 0 ? top : plane.height - top, filters_, per_group, words);
    residuals_.resize(plane.width);
    magnitudes_.assign(plane.width + 2, 0);
    for (; !stripe_.done(); stripe_.next()) {
      std::copy_n(words + stripe_.offset(), plane.width, stripe_.row());
      stripe_.survey();
      stripe_.sum(true);
      const size_t at = stripe_.offset();
      run([&] { model_row(stripe_.filters(), &tokens_[at], &contexts_[at]); });
      run([&] { write_raw(&tokens_[at], plane.width, raw); });
    }
  }

  void model_row(const Filters& f, uint8_t* tokens, uint8_t* contexts) {
    const size_t width = stripe_.width();
    const int32_t *row = stripe_.row(), *n = stripe_.above(), *sums = stripe_.sums();
    int32_t* residuals = residuals_.data();
    if (stripe_.first()) {
      residuals[0] = difference(row[0], f.low);
      for (size_t x = 1; x < width; ++x) residuals[x] = difference(row[x], row[x - 1]);
    } else if (f.narrow()) {
      const int32_t low = f.low, high = f.high;
      for (size_t x = 0; x < width; ++x) residuals[x] = row[x] - n[x] - std::min(std::max(sums[x] >> kFraction, low - n[x]), high - n[x]);
    } else {
      for (size_t x = 0; x < width; ++x) residuals[x] = difference(row[x], PredictorDecoder::prediction(f, n[x], sums[x]));
    }
    const uint8_t* small = small_tokens_.data();
    uint16_t *own = magnitudes_.data() + 2, *kept = stripe_.magnitudes();
    for (size_t x = 0; x < width; ++x) {
      const uint32_t z = zigzag(residuals[x]);
      const unsigned token = z < kSmall ? small[z] : token_of(z);
      tokens[x] = static_cast<uint8_t>(token);
      own[x] = token_table_.magnitude[token];
    }
    std::copy_n(own, width, kept);
    const uint32_t* energy = stripe_.energy();
    for (size_t x = 0; x < width; ++x) {
      const int32_t e = static_cast<int32_t>(energy[x]) + 8 * (2 * own[static_cast<std::ptrdiff_t>(x) - 1] + own[static_cast<std::ptrdiff_t>(x) - 2]) + 4;
      // Exponent and two bits of the float32, which holds every energy exactly: context_of.
      const float exact = static_cast<float>(e);
      uint32_t bits;
      std::memcpy(&bits, &exact, 4);
      contexts[x] = static_cast<uint8_t>((bits >> 21) - 4 * 129);
    }
    for (size_t x = 0; x < width; ++x) ++counts_[contexts[x]][tokens[x]];
  }

  static int32_t difference(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)); }

  void write_raw(const uint8_t* tokens, size_t width, BitWriter& raw) {
    unsigned most = 0;
    for (size_t x = 0; x < width; ++x) most = std::max<unsigned>(most, tokens[x]);
    if (most < kDirect) return;
    raw.reserve_bits(width * 32);
    BitWriter::Cursor w(raw);
    for (size_t x = 0; x < width; ++x) {  // most tokens have no raw bits, but asking costs more than writing none
      const unsigned token = tokens[x];
      w.put(zigzag(residuals_[x]) - token_table_.base[token], token_table_.raw[token]);
      w.flush();
    }
    w.give_back();
  }

  // Bits (1/65536) of a histogram with an ideal code, and what its table costs about.
  uint64_t cost(const Counts& a, const Counts* b) const {
    uint64_t sum = 0;
    uint32_t n = 0, used = 0;
    for (unsigned i = 0; i < top_; ++i) {
      const uint32_t v = a[i] + (b != nullptr ? (*b)[i] : 0);
      if (v == 0) continue;
      n += v;
      ++used;
      sum += entropy_.n_log_n(v);
    }
    if (n == 0) return 0;
    return entropy_.n_log_n(n) - sum + ((uint64_t{5} * used + 16) << 16);
  }

  // Neighbours in energy are merged as long as that saves bits, or there are too many tables.
  void merge_contexts() {
    Counts all{};
    for (const Counts& h : counts_)
      for (unsigned i = 0; i < kTokens; ++i) all[i] |= h[i];
    for (top_ = kTokens; top_ > 1 && all[top_ - 1] == 0;) --top_;
    clusters_.clear();
    for (unsigned i = 0; i < kContexts; ++i)
      if (const uint64_t bits = cost(counts_[i], nullptr); bits != 0) clusters_.push_back({i, bits});
    auto gain = [&](size_t i) {
      return static_cast<int64_t>(clusters_[i].bits + clusters_[i + 1].bits) -
             static_cast<int64_t>(cost(counts_[clusters_[i].context], &counts_[clusters_[i + 1].context]));
    };
    gains_.clear();
    for (size_t i = 0; i + 1 < clusters_.size(); ++i) gains_.push_back(gain(i));
    while (!gains_.empty()) {
      const size_t best = static_cast<size_t>(std::max_element(gains_.begin(), gains_.end()) - gains_.begin());
      if (gains_[best] <= 0 && clusters_.size() <= kMaxTables) break;
      Counts &to = counts_[clusters_[best].context], &from = counts_[clusters_[best + 1].context];
      for (unsigned i = 0; i < top_; ++i) to[i] += from[i];
      clusters_[best].bits = cost(to, nullptr);
      clusters_.erase(clusters_.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      gains_.erase(gains_.begin() + static_cast<std::ptrdiff_t>(best));
      if (best > 0) gains_[best - 1] = gain(best - 1);
      if (best < gains_.size()) gains_[best] = gain(best);
    }
    // A table serves from its first context to where the next one's begin; the first from 0 on.
    frequencies_.resize(clusters_.size());
    tables_.resize(clusters_.size());
    for (size_t t = 0; t < clusters_.size(); ++t) {
      ans::normalise(counts_[clusters_[t].context].data(), frequencies_[t]);
      tables_[t].build(frequencies_[t]);
      const unsigned begin = t == 0 ? 0 : clusters_[t].context, end = t + 1 < clusters_.size() ? clusters_[t + 1].context : kContexts;
      std::fill(by_context_.begin() + begin, by_context_.begin() + end, tables_[t].symbols.data());
    }
  }

  void write_header(const std::vector<Plane>& planes, size_t per_group, std::vector<uint8_t>& out) {
    BitWriter w(out);
    put_gamma(w, static_cast<uint32_t>(per_group));
    for (size_t p = 0; p < planes.size(); ++p) {
      const Filters& f = filters_[p / per_group];
      if (p % per_group == 0) header::write_filters(w, f);
      if (f.reference) put_gamma(w, static_cast<uint32_t>(planes[p].reference < 0 ? 1 : p - static_cast<size_t>(planes[p].reference) + 1));
    }
    for (size_t t = 0; t < clusters_.size(); ++t) {
      const unsigned begin = t == 0 ? 0 : clusters_[t].context, end = t + 1 < clusters_.size() ? clusters_[t + 1].context : kContexts;
      put_gamma(w, end - begin);
    }
    ans::write_frequencies(frequencies_, w);
    w.finish();
  }

  void write_lane(const std::vector<Plane>& planes, size_t lane, bool last_lane, std::vector<uint8_t>& out) {
    size_t samples = 0;
    for (const Plane& p : planes) samples += p.height * p.width;
    buffer_.resize(samples + 8);
    uint16_t* const end = buffer_.data() + buffer_.size();
    uint16_t* at = end;
    uint32_t state[2] = {ans::kLow, ans::kLow};
    for (size_t p = planes.size(); p-- > 0;) {
      const Plane& plane = planes[p];
      const size_t count = stripes_of(plane), top = (plane.height + count - 1) / count;
      if (lane >= count) continue;
      const size_t first = lane * top, last = lane == 0 ? top : plane.height;
      for (size_t y = last; y-- > first;) run([&] { code_row(plane.offset + y * plane.width, plane.width, state, at); });
    }
    frame::put_varint(out, static_cast<size_t>(end - at));
    for (const uint32_t x : state)
      for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(x >> (8 * i)));
    // Little-endian words, as they will be read.
    const size_t begin = out.size();
    out.resize(begin + 2 * static_cast<size_t>(end - at));
    uint8_t* to = out.data() + begin;
    for (; at != end; ++at, to += 2) store_le16(to, *at);
    if (!last_lane) frame::put_varint(out, raw_out_[lane].size());
    out.insert(out.end(), raw_out_[lane].begin(), raw_out_[lane].end());
  }

  // A row backwards: even columns by the first state, odd ones by the second.
  void code_row(size_t begin, size_t width, uint32_t* states, uint16_t*& to) const {
    uint32_t even = states[0], odd = states[1];
    uint16_t* at = to;
    const uint8_t *tokens = tokens_.data() + begin, *contexts = contexts_.data() + begin;
    const ans::Symbol* const* tables = by_context_.data();
    size_t x = width;
    if (x & 1) {
      --x;
      ans::put(even, tables[contexts[x]][tokens[x]], at);
    }
    while (x != 0) {
      --x;
      ans::put(odd, tables[contexts[x]][tokens[x]], at);
      --x;
      ans::put(even, tables[contexts[x]][tokens[x]], at);
    }
    states[0] = even;
    states[1] = odd;
    to = at;
  }

  struct Cluster {
    uint32_t context;  // the first; its histogram is the cluster's
    uint64_t bits;
  };

  Entropy entropy_;
  Fit fit_;
  Stripe stripe_;
  std::vector<Filters> filters_;
  std::vector<uint8_t> tokens_, contexts_;
  std::array<std::vector<uint8_t>, 2> raw_out_;
  std::vector<int32_t> residuals_;
  std::vector<uint16_t> magnitudes_, buffer_;
  std::vector<Counts> counts_;
  std::vector<Cluster> clusters_;
  std::vector<int64_t> gains_;
  std::vector<ans::Frequencies> frequencies_;
  std::vector<ans::EncodeTable> tables_;
  std::array<const ans::Symbol*, kContexts> by_context_{};
  PredictorTokens token_table_;
  std::array<uint8_t, kSmall> small_tokens_;
  unsigned top_ = 0;
};

}  // namespace tilevault::predictor
