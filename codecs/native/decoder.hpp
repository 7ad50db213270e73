// Coefficients from the segments of a stream. Work per coefficient is bounded, nothing is allocated that
// the extents and the fixed limits do not bound, and every table is checked before it is used.
#pragma once

#include <vector>

#include "ans_rows.hpp"
#include "band_prediction.hpp"
#include "class_map.hpp"
#include "cpu.hpp"
#include "tables.hpp"

namespace tilevault {

// MED, the median edge detector of JPEG-LS (ISO/IEC 14495-1 A.4.1), on wrapping words.
inline int32_t median_edge(int32_t w, int32_t n, int32_t nw) {
  const int32_t low = std::min(w, n), high = std::max(w, n);
  if (nw >= high) return low;
  if (nw <= low) return high;
  return lifting::sub(lifting::add(w, n), nw);
}

inline int32_t ll_prediction(const int32_t* ll, size_t y, size_t x, size_t width) {
  const int32_t* at = ll + y * width + x;
  if (y == 0) return x == 0 ? 0 : at[-1];
  const int32_t* above = at - width;
  return x == 0 ? above[0] : median_edge(at[-1], above[0], above[-1]);
}

class CoefficientDecoder {
 public:
  // Segment 0: everything that the others need, and LL of each plane into the first words of c.
  void low(const Subbands& tile, Bytes segment, int32_t* c) {
    tile_ = tile;
    row_contexts_.resize(tile.width);
    row_tokens_.resize(tile.width);
    predicted_.resize(tile.width);
    frame::take_references(segment, tile.planes, references_);
    read_head(segment);
    rows_.resize(tile.planes);
    rows_.start(tile, tile.levels, true);
    decode_segment(0, segment, [&](const auto& each) {
      for (size_t plane = 0; plane < tile.planes; ++plane) each(tile.levels, plane, kLL, LowBand());
    }, c);
    restore_ll(c);
  }

  // Decomposition k, coarsest first. low: LL of each plane.
  void decomposition(unsigned k, Bytes segment, const std::vector<LowBand>& low, int32_t* c) {
    rows_.start(tile_, k, false);
    decode_segment(tile_.levels + 1 - k, segment, [&](const auto& each) {
      for (size_t plane = 0; plane < tile_.planes; ++plane)
        for (const Kind kind : {kHL, kLH, kHH}) each(k, plane, kind, low[plane]);
    }, c);
  }

 private:
  void restore_ll(int32_t* c) const {
    for (size_t plane = 0; plane < tile_.planes; ++plane) {
      const Band b = tile_.band(tile_.levels, plane, kLL);
      int32_t* ll = c + b.offset;
      for (size_t y = 0; y < b.height; ++y)
        for (size_t x = 0; x < b.width; ++x)
          ll[y * b.width + x] = lifting::add(ll[y * b.width + x], ll_prediction(ll, y, x, b.width));
    }
  }

  void read_head(Bytes& in) {
    BitReader r(in);
    huffman_ = r.get_slow(1) != 0;
    weights_.reset(tile_.planes, tile_.levels);
    BandWeights weights;
    for (unsigned k = tile_.levels; k > 0; --k)
      for (size_t plane = 0; plane < tile_.planes; ++plane)
        for (const Kind kind : {kHL, kLH, kHH}) {
          read_weights(weights, taps_of(kind, references_[plane]), r);
          weights_.set(k, plane, kind, weights);
        }
    if (huffman_) {
      read(r);
    } else {
      frequencies_.resize(table_bits::read_map(set_, r));
      ans::read_frequencies(frequencies_, r);
      run([&] { ans_tables_.build(frequencies_); });
    }
    r.align();
    in = r.rest();
  }

  // bands(each) calls each(k, plane, kind, low) for the bands of segment s, in order.
  template <class Bands>
  void decode_segment(unsigned s, Bytes in, Bands&& bands, int32_t* c) {
    if (huffman_) {
      for (State& t : states_) t.count = t.tokens = 0;
      BitReader r(in);
      bands([&](unsigned k, size_t plane, Kind kind, const LowBand& low) {
        decode_band(k, plane, kind, low, c, [&](uint8_t* tables, size_t width, int32_t* row, uint16_t* magnitudes) {
          decode_row(r, tables, width, row);
          for (size_t x = 0; x < width; ++x) magnitudes[x] = static_cast<uint16_t>(magnitude(row[x]));
          if (r.overrun()) throw Corrupt("a bit stream ends before its content");
        });
      });
      r.expect_end();
      for (const State& t : states_)
        if (t.mode == kRun ? t.count > 1 : t.tokens != 0) throw Corrupt("a group of tokens is longer than its segment");
      return;
    }
    const size_t bytes = 2 * size_t{frame::take_varint(in)};
    if (bytes > in.size) throw Corrupt("a segment ends before its content");
    ans::RowReader words({in.data, bytes}, ans::lanes_of(tile_.prefix(s + 1) - tile_.prefix(s)));
    BitReader raw({in.data + bytes, in.size - bytes});
    bands([&](unsigned k, size_t plane, Kind kind, const LowBand& low) {
      decode_band(k, plane, kind, low, c, [&](uint8_t* tables, size_t width, int32_t* row, uint16_t* magnitudes) {
        words.row(ans_tables_, tables, width, row_tokens_.data());
        values_of(row_tokens_.data(), width, raw, row, magnitudes);
      });
    });
    words.expect_end();
    raw.expect_end();
  }

  void values_of(const uint8_t* tokens, size_t width, BitReader& reader, int32_t* row, uint16_t* magnitudes) const {
    uint8_t most = 0;
    for (size_t x = 0; x < width; ++x) most = std::max(most, tokens[x]);
    if (most < kDirect) {
      for (size_t x = 0; x < width; ++x) {
        row[x] = unzigzag(tokens[x]);
        magnitudes[x] = static_cast<uint16_t>((tokens[x] + 1) >> 1);
      }
      return;
    }
    BitReader r = reader;  // a copy that stays in registers
    size_t x = 0;
    auto value = [&] { row[x] = static_cast<int32_t>(token_table_.base[tokens[x]] + r.take(token_table_.raw[tokens[x]])); };
    if (token_table_.raw[most] <= 14) {
      for (; x + 4 <= width;) {
        r.refill();
        for (unsigned i = 0; i < 4; ++i, ++x) value();
      }
    }
    for (; x < width; ++x) {
      r.refill();
      value();
    }
    reader = r;
    for (x = 0; x < width; ++x) {
      const auto z = static_cast<uint32_t>(row[x]);
      magnitudes[x] = static_cast<uint16_t>(std::min((z >> 1) + (z & 1), kMagnitudeCap));
      row[x] = unzigzag(z);
    }
    if (r.overrun()) throw Corrupt("a bit stream ends before its content");
  }

  // decode_row(tables, width, row, magnitudes): the next row, whose tokens have these tables.
  template <class Row>
  void decode_band(unsigned k, size_t plane, Kind kind, const LowBand& low, int32_t* c, Row&& decode_row) {
    const Band band = tile_.band(k, plane, kind);
    if (band.width == 0) return;
    rows_.select(plane, references_[plane].first);
    Magnitudes& magnitudes = rows_.magnitudes(kind);
    uint8_t* contexts = row_contexts_.data();
    const BandWeights& w = weights_.of(k, plane, kind);
    if (w.used) taps_.start(tile_, k, plane, kind, references_[plane], low, c);
    const auto rows = [&] {
      const uint8_t* map = set_.map.data() + kind * kClasses;
      for (size_t y = 0; y < band.height; ++y) {
        int32_t* row = c + band.offset + y * band.width;
        rows_.classes(kind, low, y, band.width, contexts);
        map_row(map, contexts, band.width);
        decode_row(contexts, band.width, row, magnitudes.row(y));
        if (!w.used) continue;
        taps_.seek(y);
        taps_.predict(w, predicted_.data());
        for (size_t x = 0; x < band.width; ++x) row[x] = lifting::add(row[x], predicted_[x]);
      }
    };
    run_widest(rows, rows);
  }

  struct State {
    const DecodeTable* first;
    const DecodeTable* second;
    uint64_t count;   // tokens left of the current group or run
    uint32_t tokens;  // the group's digits, next one lowest
    uint8_t mode, digit_bits, escape;  // escape: the digit that asks for `second`, or 255
  };

  void read(BitReader& r) {
    read_tables(set_, r);
    size_t codes = 0;
    for (const Table& t : set_.tables) codes += t.has_second() ? 2 : 1;
    if (decode_tables_.size() < codes) decode_tables_.resize(codes);
    size_t next = 0;
    states_.clear();
    for (const Table& t : set_.tables) {
      State s{};
      s.mode = static_cast<uint8_t>(t.mode);
      s.digit_bits = t.mode == kPair ? 4 : 2;
      s.escape = t.escape ? static_cast<uint8_t>(t.digits - 1) : 255;
      const unsigned skipped = t.mode == kRun ? 1 : t.escape ? t.digits - 1 : 0;
      if (t.has_second() && t.second.size + skipped > kTokens) throw Corrupt("a Huffman table has too many symbols");
      DecodeTable* first = &decode_tables_[next++];
      build_first(t, *first);
      s.first = first;
      if (t.has_second()) {
        DecodeTable* second = &decode_tables_[next++];
        build_tokens(t.second, *second);
        s.second = second;
      }
      states_.push_back(s);
    }
  }

  static void build_tokens(const Lengths& lengths, DecodeTable& table) {
    std::array<uint16_t, kMaxSymbols> payload{};
    for (unsigned i = 0; i < lengths.size; ++i) payload[i] = static_cast<uint16_t>(i << 5 | raw_bits(i));
    table.build(lengths, payload.data());
  }
  static void build_first(const Table& t, DecodeTable& table) {
    if (t.group() == 1) return build_tokens(t.first, table);
    std::array<uint16_t, kMaxSymbols> payload{};
    const unsigned bits = t.mode == kPair ? 4 : 2;
    for (unsigned i = 0; i < t.first.size; ++i) {
      unsigned rest = i, packed = 0;
      for (unsigned g = 0; g < t.group(); ++g, rest /= t.digits) packed |= (rest % t.digits) << (bits * g);
      payload[i] = static_cast<uint16_t>(packed);
    }
    table.build(t.first, payload.data());
  }

  // What a lookup gives: of a token code, token << 5 | number of raw bits.
  static unsigned symbol(BitReader& r, const DecodeTable& table) {
    const unsigned entry = table.entries[r.peek() & table.mask];
    r.skip(entry & 15);
    return entry >> 4;
  }
  static unsigned token(BitReader& r, const DecodeTable& table) { return symbol(r, table) >> 5; }

  // The next token of a table that codes several by one symbol.
  unsigned grouped(BitReader& r, State& s) const {
    if (s.mode == kRun) {
      if (s.count == 0) {
        const unsigned run = symbol(r, *s.first);
        s.count = uint64_t{token_table_.base[run >> 5]} + r.take(run & 31) + 1;
        r.refill();
      }
      return --s.count != 0 ? 0 : token(r, *s.second) + 1;
    }
    if (s.count == 0) {
      s.tokens = symbol(r, *s.first);
      s.count = s.mode == kPair ? 2 : 4;
    }
    --s.count;
    unsigned digit = s.tokens & ((1u << s.digit_bits) - 1);
    s.tokens >>= s.digit_bits;
    if (digit == s.escape) digit += token(r, *s.second);
    return digit;
  }

  void decode_row(BitReader& reader, const uint8_t* tables, size_t width, int32_t* row) {
    BitReader r = reader;  // a copy that stays in registers
    State* states = states_.data();
    for (size_t x = 0; x < width; ++x) {
      State& s = states[tables[x]];
      r.refill();
      uint32_t z;
      if (s.mode == kPlain) {
        const unsigned entry = symbol(r, *s.first);
        z = token_table_.base[entry >> 5] + r.take(entry & 31);
      } else {
        const unsigned t = grouped(r, s);
        z = t < kDirect ? t : token_table_.base[t] + r.take(raw_bits(t));
      }
      row[x] = unzigzag(z);
    }
    reader = r;
  }

  Subbands tile_{};
  bool huffman_ = false;
  std::vector<Reference> references_;
  WeightSet weights_;
  ContextRows rows_;
  BandTaps taps_;
  std::vector<int32_t> predicted_;
  TokenTable token_table_;
  std::vector<ans::Frequencies> frequencies_;
  ans::WideTables ans_tables_;
  TableSet set_;
  std::vector<DecodeTable> decode_tables_;
  std::vector<State> states_;
  std::vector<uint8_t> row_contexts_, row_tokens_;
};

}  // namespace tilevault
