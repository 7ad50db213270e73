// Segments of a stream from coefficients: contexts and tokens, then contexts merged into tables as long
// as that saves bits, then the cheapest way to group each table's tokens, then the bits.
// All decisions are made in integers, so that every machine writes the same bytes.
#pragma once

#include <array>
#include <vector>

#include "decoder.hpp"

namespace tilevault {

// n * log2(n) in 1/65536 bits.
class Entropy {
 public:
  Entropy() {
    for (unsigned i = 0; i <= 256; ++i) {
      // log2(1 + i / 256) digit by digit: squaring shifts the next binary digit above 1.
      uint64_t x = (uint64_t{256} + i) << 22, log = 0;  // 1.0 is 2^30
      if (i == 256) {
        fraction_[i] = 1u << 16;
        continue;
      }
      for (unsigned b = 0; b < 16; ++b) {
        x = (x * x) >> 30;
        log <<= 1;
        if (x >= (uint64_t{2} << 30)) {
          x >>= 1;
          log |= 1;
        }
      }
      fraction_[i] = static_cast<uint32_t>(log);
    }
    for (uint32_t n = 0; n < kSmall; ++n) small_[n] = static_cast<uint32_t>(computed(n));
  }
  uint64_t n_log_n(uint32_t n) const { return n < kSmall ? small_[n] : computed(n); }

 private:
  static constexpr uint32_t kSmall = 2048;  // products below 2^32

  uint64_t computed(uint32_t n) const {
    if (n < 2) return 0;
    const unsigned top = 31 - static_cast<unsigned>(__builtin_clz(n));
    const uint32_t m = top >= 20 ? n >> (top - 20) : n << (20 - top);  // 1.0 is 2^20
    const uint32_t i = (m >> 12) - 256, rest = m & 4095;
    const uint64_t f = fraction_[i] + (((uint64_t{fraction_[i + 1]} - fraction_[i]) * rest) >> 12);
    return n * ((uint64_t{top} << 16) + f);
  }

  std::array<uint32_t, kSmall> small_;
  std::array<uint32_t, 257> fraction_;
};

enum class Coder { ans, huffman };

class CoefficientEncoder {
 public:
  // Decompositions 1, 2, ... of all planes, then LL, then write.
  void start(const Subbands& tile) {
    tile_ = tile;
    const size_t n = tile.prefix(tile.levels + 1);
    contexts_.resize(n);
    tokens_.resize(n);
    counts_.assign(2 * kContexts, Counts{});
    totals_.fill(0);
    segment_totals_.resize(tile.levels + 1);
    weights_.reset(tile.planes, tile.levels);
    rows_.resize(tile.planes);
  }

  // The weights of decomposition k. low: LL of each plane; c: the tile's coefficients. across: where it is not
  // nullptr, becomes the bits that would be saved beyond those by looking left instead of up.
  void fit(unsigned k, const std::vector<LowBand>& low, const std::vector<Reference>& references, const int32_t* c, int64_t* across) {
    static constexpr unsigned kFitted = 2;  // where it pays without references
    const size_t samples = std::max<size_t>((k == 1 ? 2048 : 1024) / tile_.planes, 512);
    references_ = references;
    for (size_t plane = tile_.planes; plane-- > 0;)
      for (const Kind kind : {kHH, kLH, kHL}) {
        const Band b = tile_.band(k, plane, kind);
        if (b.height == 0 || b.width == 0) continue;
        if (k > kFitted && references_[plane].first < 0) continue;
        BandWeights w;
        taps_.start(tile_, k, plane, kind, references_[plane], low[plane], c);
        run([&] { fit_.fit(taps_, c + b.offset, samples, w, across); });
        weights_.set(k, plane, kind, w);
      }
  }

  // After fit: the coefficients of this decomposition become what the prediction leaves.
  void decompose(unsigned k, const std::vector<LowBand>& low, int32_t* c) {
    predict(k, low, c);
    rows_.start(tile_, k, false);
    for (size_t plane = 0; plane < tile_.planes; ++plane)
      for (const Kind kind : {kHL, kLH, kHH}) tokenise(k, plane, kind, low[plane], c);
    close_segment(tile_.levels + 1 - k);
  }

  void low(const std::vector<Reference>& references, int32_t* c) {
    references_ = references;
    predict_ll(c);
    rows_.start(tile_, tile_.levels, true);
    for (size_t plane = 0; plane < tile_.planes; ++plane) tokenise(tile_.levels, plane, kLL, LowBand(), c);
    close_segment(0);
    for (unsigned i = 0; i < kContexts; ++i)
      for (unsigned t = 0; t < kTokens; ++t) counts_[i][t] += counts_[kContexts + i][t];
    Counts all{};
    for (unsigned i = 0; i < kContexts; ++i)
      for (unsigned t = 0; t < kTokens; ++t) all[t] |= counts_[i][t];
    top_ = extent(all.data(), kTokens);
  }

  // Appends segment after segment to out, and the end of each (relative to where out began) to ends.
  void write(Coder coder, const int32_t* c, std::vector<uint8_t>& out, std::vector<size_t>& ends) {
    merge_contexts();
    each_band([&](unsigned, size_t, Kind kind, const Band& band) {
      map_row(set_.map.data() + kind * kClasses, contexts_.data() + band.offset, band.height * band.width);
    });
    if (coder == Coder::huffman) {
      write_huffman(c, out, ends);
    } else {
      write_ans(c, out, ends);
    }
  }

 private:
  using Counts = std::array<uint32_t, kTokens>;

  void predict_ll(int32_t* c) const {
    for (size_t plane = 0; plane < tile_.planes; ++plane) {
      const Band b = tile_.band(tile_.levels, plane, kLL);
      int32_t* ll = c + b.offset;
      for (size_t y = b.height; y-- > 0;)
        for (size_t x = b.width; x-- > 0;)
          ll[y * b.width + x] = lifting::sub(ll[y * b.width + x], ll_prediction(ll, y, x, b.width));
    }
  }

  // each(k, plane, kind, band) for all bands.
  template <class Each>
  void each_band(Each&& each) const {
    for (size_t plane = 0; plane < tile_.planes; ++plane) {
      each(tile_.levels, plane, kLL, tile_.band(tile_.levels, plane, kLL));
      for (unsigned k = tile_.levels; k > 0; --k)
        for (const Kind kind : {kHL, kLH, kHH}) each(k, plane, kind, tile_.band(k, plane, kind));
    }
  }

  // Takes the predictions away, last band and row first, because earlier ones are what they come from.
  void predict(unsigned k, const std::vector<LowBand>& low, int32_t* c) {
    for (size_t plane = tile_.planes; plane-- > 0;)
      for (const Kind kind : {kHH, kLH, kHL}) {
        const BandWeights& w = weights_.of(k, plane, kind);
        if (!w.used) continue;
        const Band b = tile_.band(k, plane, kind);
        taps_.start(tile_, k, plane, kind, references_[plane], low[plane], c);
        predicted_.resize(b.width);
        run([&] {
          for (size_t y = b.height; y-- > 0;) {
            taps_.seek(y);
            taps_.predict(w, predicted_.data());
            int32_t* row = c + b.offset + y * b.width;
            for (size_t x = 0; x < b.width; ++x) row[x] = lifting::sub(row[x], predicted_[x]);
          }
        });
      }
  }

  void tokenise(unsigned k, size_t plane, Kind kind, const LowBand& low, const int32_t* c) {
    const Band band = tile_.band(k, plane, kind);
    if (band.width == 0) return;
    ContextRows& rows = rows_;
    rows.select(plane, references_[plane].first);
    Magnitudes& magnitudes = rows.magnitudes(kind);
    Counts *even = counts_.data() + kind * kClasses, *odd = even + kContexts;
    const auto work = [&] {
      for (size_t y = 0; y < band.height; ++y) {
        const size_t at = band.offset + y * band.width;
        uint8_t *contexts = &contexts_[at], *tokens = &tokens_[at];
        rows.classes(kind, low, y, band.width, contexts);
        tokens_of_row(c + at, band.width, tokens, magnitudes.row(y));
        size_t x = 0;
        for (; x + 2 <= band.width; x += 2) {
          ++even[contexts[x]][tokens[x]];
          ++odd[contexts[x + 1]][tokens[x + 1]];
        }
        if (x < band.width) ++even[contexts[x]][tokens[x]];
      }
    };
    run_widest(work, work);
  }

  void close_segment(unsigned s) {
    for (unsigned i = 0; i < kContexts; ++i) {
      const uint32_t now = total(counts_[i]) + total(counts_[kContexts + i]);
      segment_totals_[s][i] = now - totals_[i];
      totals_[i] = now;
    }
  }

  void write_head(bool huffman, BitWriter& w) {
    w.put_slow(huffman, 1);
    for (unsigned k = tile_.levels; k > 0; --k)
      for (size_t plane = 0; plane < tile_.planes; ++plane)
        for (const Kind kind : {kHL, kLH, kHH}) write_weights(weights_.of(k, plane, kind), taps_of(kind, references_[plane]), w);
  }

  void write_huffman(const int32_t* c, std::vector<uint8_t>& out, std::vector<size_t>& ends) {
    gather(tile_);
    for (Table& t : set_.tables) choose_mode(t);
    prepare_codes();
    frame::put_references(references_, out);
    BitWriter head(out);
    write_head(true, head);
    write_tables(set_, head);
    head.finish();
    for (unsigned s = 0; s <= tile_.levels; ++s) {
      BitWriter segment(out);
      start_segment(s);
      run([&] { write_range(segment, c, tile_.prefix(s), tile_.prefix(s + 1)); });
      segment.finish();
      ends.push_back(out.size());
    }
  }

  void write_ans(const int32_t* c, std::vector<uint8_t>& out, std::vector<size_t>& ends) {
    const size_t begin = out.size(), tables = set_.tables.size();
    frequencies_.resize(tables);
    ans_tables_.resize(tables);
    for (size_t t = 0; t < tables; ++t) {
      ans::normalise(table_counts_[t].data(), frequencies_[t]);
      ans_tables_[t].build(frequencies_[t]);
    }
    frame::put_references(references_, out);
    BitWriter head(out);
    write_head(false, head);
    table_bits::write_map(set_, head);
    ans::write_frequencies(frequencies_, head);
    head.finish();
    for (unsigned s = 0; s <= tile_.levels; ++s) {
      const Bytes words = write_words(s);
      frame::put_varint(out, words.size / 2);
      out.insert(out.end(), words.data, words.data + words.size);
      BitWriter w(out);
      run([&] { write_raw(w, c, tile_.prefix(s), tile_.prefix(s + 1)); });
      w.finish();
      ends.push_back(out.size() - begin);
    }
  }

  Bytes write_words(unsigned s) {
    const size_t n = tile_.prefix(s + 1) - tile_.prefix(s);
    const size_t most = 2 * n + 4 * ans::kMostLanes + 32;
    if (words_.size() < most) words_.resize(most);
    ans::RowWriter writer(words_.data() + words_.size(), ans::lanes_of(n));
    const unsigned k = tile_.levels - (s == 0 ? 0 : s - 1);
    for (size_t plane = tile_.planes; plane-- > 0;)
      for (unsigned i = s == 0 ? 1 : 3; i-- > 0;) {
        const Band band = tile_.band(k, plane, s == 0 ? kLL : static_cast<Kind>(kHL + i));
        run([&] {
          for (size_t y = band.height; y-- > 0;) {
            const size_t at = band.offset + y * band.width;
            writer.row(ans_tables_.data(), &contexts_[at], &tokens_[at], band.width);
          }
        });
      }
    return writer.finish();
  }

  void write_raw(BitWriter& writer, const int32_t* c, size_t from, size_t to) {
    constexpr size_t kPiece = 32;
    for (size_t i = from; i < to; i += kPiece) {
      const size_t stop = std::min(to, i + kPiece);
      const uint8_t* tokens = tokens_.data();
      uint8_t any = 0;
      for (size_t x = i; x < stop; ++x) any = std::max(any, tokens[x]);
      if (any < kDirect) continue;
      writer.reserve_bits(kPiece * 32);
      BitWriter::Cursor w(writer);
      const auto put = [&](size_t x) {
        const unsigned n = token_table_.raw[tokens[x]];
        w.put(zigzag(c[x]) & ((1u << n) - 1), n);
      };
      size_t x = i;
      if (token_table_.raw[any] <= 14) {
        for (; x + 4 <= stop; x += 4) {
          for (unsigned j = 0; j < 4; ++j) put(x + j);
          w.flush();
        }
      }
      for (; x < stop; ++x) {
        put(x);
        w.flush();
      }
      w.give_back();
    }
  }

  static uint32_t total(const Counts& h) {
    uint32_t n = 0;
    for (uint32_t v : h) n += v;
    return n;
  }

  // Bits (1/65536) of a histogram with an ideal code, and what its table costs about.
  uint64_t cost(const uint32_t* a, const uint32_t* b) const {
    uint64_t sum = 0;
    uint32_t n = 0, used = 0;
    for (unsigned i = 0; i < top_; ++i) {
      const uint32_t v = a[i] + (b != nullptr ? b[i] : 0);
      if (v == 0) continue;
      n += v;
      sum += entropy_.n_log_n(v);
      ++used;
    }
    if (n == 0) return 0;
    return entropy_.n_log_n(n) - sum + ((uint64_t{3} * used + 25) << 16);
  }

  struct Cluster {
    uint32_t context;  // its histogram is that of this context
    uint64_t cost;
  };

  int64_t gain(const Cluster& a, const Cluster& b) const {
    return static_cast<int64_t>(a.cost + b.cost) -
           static_cast<int64_t>(cost(counts_[a.context].data(), counts_[b.context].data()));
  }

  void absorb(Cluster& a, const Cluster& b) {
    for (unsigned i = 0; i < top_; ++i) counts_[a.context][i] += counts_[b.context][i];
    for (unsigned i = 0; i < kContexts; ++i)
      if (parent_[i] == b.context) parent_[i] = a.context;
    a.cost = cost(counts_[a.context].data(), nullptr);
  }

  void merge_contexts() {
    std::vector<Cluster>& all = clusters_;
    all.clear();
    for (unsigned kind = 0; kind < kKinds; ++kind) {
      const size_t begin = all.size();
      for (unsigned i = kind * kClasses; i < (kind + 1) * kClasses; ++i) {
        parent_[i] = i;
        const uint64_t bits = cost(counts_[i].data(), nullptr);
        if (bits != 0) all.push_back({i, bits});
      }
      merge_neighbours(begin);
    }
    merge_any();
    set_.tables.clear();
    std::array<int, kContexts> table;
    table.fill(-1);
    unsigned previous = 0;
    for (unsigned i = 0; i < kContexts; ++i) {
      if (totals_[i] == 0) {  // never asked for: prolongs the run before it
        set_.map[i] = static_cast<uint8_t>(previous);
        continue;
      }
      int& t = table[parent_[i]];
      if (t < 0) {
        t = static_cast<int>(set_.tables.size());
        Table fresh;
        std::copy_n(counts_[parent_[i]].begin(), kTokens, table_counts_[static_cast<unsigned>(t)].begin());
        set_.tables.push_back(fresh);
      }
      previous = static_cast<unsigned>(t);
      set_.map[i] = static_cast<uint8_t>(t);
    }
  }

  // Energies next to each other, within one kind of band.
  void merge_neighbours(size_t begin) {
    std::vector<Cluster>& all = clusters_;
    gains_.clear();
    for (size_t i = begin; i + 1 < all.size(); ++i) gains_.push_back(gain(all[i], all[i + 1]));
    while (!gains_.empty()) {
      const size_t best = static_cast<size_t>(std::max_element(gains_.begin(), gains_.end()) - gains_.begin());
      if (gains_[best] <= 0) break;
      const size_t at = begin + best;
      absorb(all[at], all[at + 1]);
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      gains_.erase(gains_.begin() + static_cast<std::ptrdiff_t>(best));
      if (best > 0) gains_[best - 1] = gain(all[at - 1], all[at]);
      if (best < gains_.size()) gains_[best] = gain(all[at], all[at + 1]);
    }
  }

  // Any two that are left; also the way below kMaxTables.
  void merge_any() {
    std::vector<Cluster>& all = clusters_;
    size_t n = all.size();
    gains_.assign(n * n, 0);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = i + 1; j < n; ++j) gains_[i * n + j] = gain(all[i], all[j]);
    std::vector<size_t>& alive = alive_;
    alive.resize(n);
    for (size_t i = 0; i < n; ++i) alive[i] = i;
    while (alive.size() > 1) {
      int64_t best = INT64_MIN;
      size_t bi = 0, bj = 0;
      for (size_t i = 0; i < alive.size(); ++i)
        for (size_t j = i + 1; j < alive.size(); ++j)
          if (const int64_t g = gains_[alive[i] * n + alive[j]]; g > best) best = g, bi = i, bj = j;
      if (best <= 0 && alive.size() <= kMaxTables) break;
      const size_t a = alive[bi], b = alive[bj];
      absorb(all[a], all[b]);
      alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(bj));
      for (size_t i : alive)
        if (i != a) gains_[std::min(i, a) * n + std::max(i, a)] = gain(all[i], all[a]);
    }
  }

  // The tokens of each table that may be grouped, in coding order, with the segments' ends.
  void gather(const Subbands& tile) {
    const size_t tables = set_.tables.size();
    ends_.assign((tile.levels + 2) * tables, 0);
    for (unsigned s = 0; s <= tile.levels; ++s) {
      for (size_t t = 0; t < tables; ++t) ends_[(s + 1) * tables + t] = ends_[s * tables + t];
      for (unsigned i = 0; i < kContexts; ++i)
        if (totals_[i] != 0) ends_[(s + 1) * tables + set_.map[i]] += segment_totals_[s][i];
    }
    size_t start = 0;
    starts_.assign(tables, SIZE_MAX);
    for (size_t t = 0; t < tables; ++t) {
      if (!worth_grouping(table_counts_[t])) continue;
      starts_[t] = start;
      start += ends_[(tile.levels + 1) * tables + t];
    }
    grouped_.resize(start + 8);
    // Without branches: what belongs to no group goes to a byte that nobody reads.
    uint8_t nowhere[1];
    std::array<uint8_t*, kMaxTables> to{};
    for (size_t t = 0; t < tables; ++t) to[t] = starts_[t] != SIZE_MAX ? grouped_.data() + starts_[t] : nowhere;
    std::array<uint8_t, kMaxTables> step{};
    for (size_t t = 0; t < tables; ++t) step[t] = starts_[t] != SIZE_MAX;
    const size_t n = start != 0 ? contexts_.size() : 0;
    const uint8_t *contexts = contexts_.data(), *tokens = tokens_.data();
    for (size_t i = 0; i < n; ++i) {
      const unsigned t = contexts[i];
      *to[t] = tokens[i];
      to[t] += step[t];
    }
    segments_ = tile.levels + 1;
  }

  // Below about 2.5 bits a token one symbol per token loses percents.
  bool worth_grouping(const Counts& h) const {
    const uint32_t n = total(h);
    return n >= 64 && cost(h.data(), nullptr) < uint64_t{n} * 5 / 2 * 65536;
  }

  static uint64_t coded_bits(const uint32_t* counts, const Lengths& l) {
    uint64_t bits = 0;
    if (l.used() <= 1) return 12;
    for (unsigned i = 0; i < l.size; ++i) bits += uint64_t{counts[i]} * l.of[i] + (l.of[i] != 0 ? 3 : 0) + 1;
    return bits;
  }

  // About what a Huffman code and its table will take, without making it: the entropy, and for the
  // commonest symbol, if it is more than half of all, the bit that it costs at least; otherwise 3 % of a
  // bit per symbol, which is what such codes lose on these histograms.
  uint64_t estimated_bits(const uint32_t* counts, unsigned size) const {
    uint64_t sum = 0, used = 0;
    uint32_t n = 0, most = 0;
    for (unsigned i = 0; i < size; ++i) {
      if (counts[i] == 0) continue;
      n += counts[i];
      most = std::max(most, counts[i]);
      sum += entropy_.n_log_n(counts[i]);
      ++used;
    }
    if (used <= 1) return 12;
    const uint64_t all = entropy_.n_log_n(n);
    uint64_t lost = uint64_t{n} * 2000;
    if (most > n / 2) {
      const uint64_t binary = all - entropy_.n_log_n(most) - entropy_.n_log_n(n - most);
      lost = (uint64_t{n} << 16) - std::min(binary, uint64_t{n} << 16);
    }
    return ((all - sum + lost) >> 16) + 3 * used + size;
  }

  static unsigned extent(const uint32_t* counts, unsigned size) {
    while (size > 1 && counts[size - 1] == 0) --size;
    return size;
  }

  void choose_mode(Table& table) {
    const size_t t = static_cast<size_t>(&table - set_.tables.data());
    Counts& counts = table_counts_[t];
    table = Table{};
    const unsigned size = extent(counts.data(), kTokens);
    lengths_from_counts(counts.data(), size, table.first);
    if (starts_[t] == SIZE_MAX) return;
    uint64_t best = coded_bits(counts.data(), table.first);
    Table candidate;
    std::array<uint32_t, kMaxSymbols> first{};
    Counts second{};
    auto consider = [&](uint64_t bits) {
      if (bits >= best) return;
      best = bits;
      table = candidate;
      first = first_counts_;
      second = second_counts_;
    };
    for (const Mode mode : {kPair, kQuad}) {
      count_groups(mode, t);
      for (const unsigned digits : {16u, 8u, 4u, 3u, 2u}) {
        if (digits > max_digits(mode) || (digits < 4 && mode == kPair)) continue;
        if (digits >= 2 * size && digits > 2) continue;
        candidate = Table{};
        candidate.mode = mode;
        candidate.escape = size > digits;
        candidate.digits = std::min(digits, size);
        consider(try_groups(candidate, t));
      }
    }
    candidate = Table{};
    candidate.mode = kRun;
    consider(try_runs(candidate, t));
    if (table.mode == kPlain) return;
    lengths_from_counts(first.data(), table.first.size, table.first);
    if (table.has_second()) lengths_from_counts(second.data(), table.second.size, table.second);
  }

  template <class Each>
  void each_segment(size_t t, Each&& each) const {
    const size_t tables = set_.tables.size();
    for (unsigned s = 0; s < segments_; ++s)
      each(starts_[t] + ends_[s * tables + t], starts_[t] + ends_[(s + 1) * tables + t]);
  }

  // Groups with as many digits as the mode can have; fewer follow from these.
  void count_groups(Mode mode, size_t t) {
    group_counts_.fill(0);
    each_segment(t, [&](size_t from, size_t to) {
      if (mode == kPair) {
        for (size_t i = from; i < to; i += 2) ++group_counts_[group_symbol(i, to, 16, 2)];
      } else {
        for (size_t i = from; i < to; i += 4) ++group_counts_[group_symbol(i, to, 4, 4)];
      }
    });
  }

  uint64_t try_groups(Table& table, size_t t) {
    const unsigned group = table.group(), digits = table.digits, top = digits - 1, widest = max_digits(table.mode);
    first_counts_.fill(0);
    for (unsigned i = 0; i < kMaxSymbols; ++i) {
      if (group_counts_[i] == 0) continue;
      unsigned symbol = 0, unit = 1, rest = i;
      for (unsigned g = 0; g < group; ++g, unit *= digits, rest /= widest) symbol += std::min(rest % widest, top) * unit;
      first_counts_[symbol] += group_counts_[i];
    }
    table.first.size = group_symbols(digits, group);
    uint64_t bits = estimated_bits(first_counts_.data(), table.first.size);
    if (table.escape) {
      second_counts_.fill(0);
      for (unsigned i = top; i < kTokens; ++i) second_counts_[i - top] = table_counts_[t][i];
      table.second.size = extent(second_counts_.data(), kTokens - top);
      bits += estimated_bits(second_counts_.data(), table.second.size);
    }
    return bits;
  }

  unsigned group_symbol(size_t i, size_t to, unsigned digits, unsigned group) const {
    unsigned symbol = 0, unit = 1;
    for (unsigned g = 0; g < group; ++g, unit *= digits) {
      const unsigned token = i + g < to ? grouped_[i + g] : 0u;
      symbol += std::min(token, digits - 1) * unit;
    }
    return symbol;
  }

  uint64_t try_runs(Table& table, size_t t) {
    uint64_t raw = 0;
    first_counts_.fill(0);
    second_counts_.fill(0);
    auto count_run = [&](uint32_t zeros) {
      const unsigned token = token_of(zeros);
      ++first_counts_[token];
      raw += raw_bits(token);
    };
    each_segment(t, [&](size_t from, size_t to) {
      uint32_t zeros = 0;
      for (size_t i = from; i < to; ++i) {
        if (grouped_[i] == 0) {
          ++zeros;
          continue;
        }
        count_run(zeros);
        ++second_counts_[grouped_[i] - 1u];
        zeros = 0;
      }
      if (zeros != 0) count_run(zeros);
    });
    if (total(second_counts_) == 0) second_counts_[0] = 1;  // a table has at least one symbol
    table.first.size = extent(first_counts_.data(), kTokens);
    table.second.size = extent(second_counts_.data(), kTokens - 1);
    return estimated_bits(first_counts_.data(), table.first.size) +
           estimated_bits(second_counts_.data(), table.second.size) + raw;
  }

  struct State {
    Mode mode;
    unsigned digits, group, escape;  // escape: the digit, or kTokens
    size_t at, end;                  // in grouped_
    uint64_t count;
  };

  // A token's code and, above it, how many raw bits follow; all that the hot loop looks up.
  struct TokenCode {
    uint32_t base;
    uint16_t bits;
    uint8_t length, both;  // of the code; with the raw bits
  };

  void prepare_codes() {
    const size_t tables = set_.tables.size();
    codes_.resize(2 * tables);
    token_codes_.resize(tables);
    states_.resize(tables);
    for (size_t t = 0; t < tables; ++t) {
      const Table& table = set_.tables[t];
      codes_from_lengths(table.first, codes_[2 * t]);
      if (table.has_second()) codes_from_lengths(table.second, codes_[2 * t + 1]);
      states_[t] = {table.mode, table.digits, table.group(), table.escape ? table.digits - 1 : kTokens, 0, 0, 0};
      if (table.mode != kPlain) continue;
      const Codes& codes = codes_[2 * t];
      for (unsigned i = 0; i < kTokens; ++i)
        token_codes_[t][i] = {token_base(i), codes.bits[i], codes.length[i], static_cast<uint8_t>(codes.length[i] + raw_bits(i))};
    }
  }

  void start_segment(unsigned s) {
    const size_t tables = set_.tables.size();
    for (size_t t = 0; t < tables; ++t) {
      states_[t].at = starts_[t] + ends_[s * tables + t];
      states_[t].end = starts_[t] + ends_[(s + 1) * tables + t];
      states_[t].count = 0;
    }
  }

  void write_range(BitWriter& writer, const int32_t* c, size_t from, size_t to) {
    const uint8_t *contexts = contexts_.data(), *tokens = tokens_.data();
    State* states = states_.data();
    const std::array<TokenCode, kTokens>* token_codes = token_codes_.data();
    constexpr size_t kPiece = 4096, kMostBits = 96;  // run, its raw bits, code, its raw bits: 82
    for (size_t i = from; i < to;) {
      const size_t stop = std::min(to, i + kPiece);
      writer.reserve_bits((stop - i) * kMostBits);
      BitWriter::Cursor w(writer);
      for (; i < stop; ++i) {
        const unsigned t = contexts[i], token = tokens[i];
        const uint32_t z = zigzag(c[i]);
        State& s = states[t];
        if (s.mode == kPlain) {
          const TokenCode& code = token_codes[t][token];
          w.put(code.bits | uint64_t{z - code.base} << code.length, code.both);
        } else {
          write_grouped(w, s, t, token);
          if (token >= kDirect) w.put(z - token_base(token), raw_bits(token));
        }
        w.flush();
      }
      w.give_back();
    }
  }

  template <class Writer>
  void write_grouped(Writer& w, State& s, unsigned t, unsigned token) const {
    auto put = [&](size_t code, unsigned symbol) { w.put(codes_[code].bits[symbol], codes_[code].length[symbol]); };
    if (s.mode == kRun) {
      if (s.count == 0) {
        uint32_t zeros = 0;
        while (s.at + zeros < s.end && grouped_[s.at + zeros] == 0) ++zeros;
        const unsigned run_token = token_of(zeros);
        put(2 * t, run_token);
        w.put(zeros - token_base(run_token), raw_bits(run_token));
        w.flush();
        s.count = uint64_t{zeros} + 1;
        s.at += s.count;
      }
      if (--s.count == 0) put(2 * t + 1, token - 1);
      return;
    }
    if (s.count == 0) {
      put(2 * t, group_symbol(s.at, s.end, s.digits, s.group));
      s.at += s.group;
      s.count = s.group;
    }
    --s.count;
    if (token >= s.escape) put(2 * t + 1, token - s.escape);
  }

  Subbands tile_{};
  std::vector<Reference> references_;
  WeightSet weights_;
  ContextRows rows_;
  BandTaps taps_;
  BandFit fit_;
  std::vector<int32_t> predicted_;
  TokenTable token_table_;
  std::vector<ans::Frequencies> frequencies_;
  std::vector<ans::WideEncodeTable> ans_tables_;
  std::vector<uint8_t> words_;
  Entropy entropy_;
  TableSet set_;
  std::vector<uint8_t> contexts_, tokens_, grouped_;
  std::vector<Counts> counts_;
  std::array<Counts, kContexts> table_counts_;
  std::vector<std::array<uint32_t, kContexts>> segment_totals_;
  std::array<uint32_t, kContexts> totals_{};
  std::array<uint32_t, kContexts> parent_{};
  std::array<uint32_t, kMaxSymbols> group_counts_{};
  std::array<uint32_t, kMaxSymbols> first_counts_{};  // of the grouping that is being tried
  Counts second_counts_{};
  std::vector<Cluster> clusters_;
  std::vector<int64_t> gains_;
  std::vector<size_t> alive_, starts_, ends_;
  std::vector<Codes> codes_;
  std::vector<std::array<TokenCode, kTokens>> token_codes_;
  std::vector<State> states_;
  unsigned top_ = 0, segments_ = 0;
};

}  // namespace tilevault
