// Coefficients from the segments of a stream. Work per coefficient is bounded, nothing is allocated that
// the extents and the fixed limits do not bound, and every table is checked before it is used.
#pragma once

#include <vector>

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
  CoefficientDecoder() {
    for (unsigned i = 0; i < kTokens; ++i) base_[i] = token_base(i);
  }

  // Fills the first tile.prefix(segments.size()) words of c; LL stays predicted (see restore_ll).
  void decode(const Subbands& tile, const std::vector<Bytes>& segments, int32_t* c) {
    ContextRows rows(tile, c);
    row_contexts_.resize(tile.width);
    for (size_t s = 0; s < segments.size(); ++s) {
      BitReader r(segments[s]);
      if (s == 0) read(r);
      for (State& t : states_) t.count = t.tokens = 0;
      const unsigned decomposition = tile.levels - static_cast<unsigned>(s == 0 ? 0 : s - 1);
      for (size_t plane = 0; plane < tile.planes; ++plane)
        for (unsigned k = s == 0 ? kLL : kHL; k <= (s == 0 ? kLL : kHH); ++k)
          decode_band(rows, decomposition, plane, static_cast<Kind>(k), r, c);
      r.expect_end();
      for (const State& t : states_)
        if (t.mode == kRun ? t.count > 1 : t.tokens != 0) throw Corrupt("a group of tokens is longer than its segment");
    }
  }

  static void restore_ll(const Subbands& tile, int32_t* c) {
    for (size_t plane = 0; plane < tile.planes; ++plane) {
      const Band b = tile.band(tile.levels, plane, kLL);
      int32_t* ll = c + b.offset;
      for (size_t y = 0; y < b.height; ++y)
        for (size_t x = 0; x < b.width; ++x)
          ll[y * b.width + x] = lifting::add(ll[y * b.width + x], ll_prediction(ll, y, x, b.width));
    }
  }

 private:
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
        s.count = uint64_t{base_[run >> 5]} + r.take(run & 31) + 1;
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

  void decode_row(BitReader& reader, const uint8_t* contexts, size_t width, int32_t* row) {
    BitReader r = reader;  // a copy that stays in registers
    State* states = states_.data();
    const uint8_t* map = set_.map.data();
    for (size_t x = 0; x < width; ++x) {
      State& s = states[map[contexts[x]]];
      r.refill();
      uint32_t z;
      if (s.mode == kPlain) {
        const unsigned entry = symbol(r, *s.first);
        z = base_[entry >> 5] + r.take(entry & 31);
      } else {
        const unsigned t = grouped(r, s);
        z = t < kDirect ? t : base_[t] + r.take(raw_bits(t));
      }
      row[x] = unzigzag(z);
    }
    reader = r;
  }

  void decode_band(ContextRows& rows, unsigned decomposition, size_t plane, Kind kind, BitReader& r, int32_t* c) {
    rows.start(decomposition, plane, kind);
    const Band band = rows.band();
    if (band.width == 0) return;
    uint8_t* contexts = row_contexts_.data();
    run([&] {
      for (size_t y = 0; y < band.height; ++y) {
        rows.contexts(y, contexts);
        decode_row(r, contexts, band.width, c + band.offset + y * band.width);
        if (r.overrun()) throw Corrupt("a bit stream ends before its content");
      }
    });
  }

  TableSet set_;
  std::vector<DecodeTable> decode_tables_;
  std::vector<State> states_;
  std::vector<uint8_t> row_contexts_;
  std::array<uint32_t, kTokens> base_{};
};

}  // namespace tilevault
