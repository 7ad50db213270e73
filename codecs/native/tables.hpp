// How the tokens of one table are coded, and how the tables themselves are written.
//
// A token of a low-entropy context costs far less than the one bit that a Huffman code can spend, so
// a table may code several tokens by one symbol: pairs, quads, or runs of zeros. A group's tokens are
// the next ones that come up in that table, wherever they lie in the segment.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "contexts.hpp"
#include "huffman.hpp"
#include "tokens.hpp"

namespace tilevault {

constexpr unsigned kMaxTables = 64;
enum Mode : unsigned { kPlain, kPair, kQuad, kRun };

struct Table {
  Mode mode = kPlain;
  unsigned digits = 0;   // pair, quad: values that one digit of the symbol takes
  bool escape = false;   // the largest digit says: that or more, the excess follows in `second`
  Lengths first;         // plain: token; pair, quad: digits; run: token of the number of zeros
  Lengths second;        // the excess after an escape; the token - 1 that ends a run

  unsigned group() const { return mode == kPair ? 2 : mode == kQuad ? 4 : 1; }
  bool has_second() const { return mode == kRun || escape; }
};

struct TableSet {
  std::array<uint8_t, kContexts + 3> map{};  // context -> table; what follows may be looked at
  std::vector<Table> tables;
};

inline unsigned max_digits(Mode mode) { return mode == kPair ? 16 : 4; }

inline unsigned group_symbols(unsigned digits, unsigned group) {
  unsigned n = 1;
  for (unsigned i = 0; i < group; ++i) n *= digits;
  return n;
}

namespace table_bits {

constexpr int kAbsent = kMaxLength + 1;          // a length of 0 in the order of the predictor
constexpr unsigned kDeltas = 2 * kMaxLength + 1;  // zigzag of -12..12

// What the lengths before say about symbol i. Independent digits would make log-probabilities add up, so
// lengths are predicted by the plane through three neighbours.
inline int predicted(const int* length, unsigned i, unsigned digits, unsigned group) {
  if (i == 0) return 3;
  if (group == 1) return length[i - 1];
  unsigned unit = 1, below = 0, found = 0, rest = i;
  for (unsigned g = 0; g < group; ++g, unit *= digits, rest /= digits) {
    if (rest % digits == 0) continue;
    if (found != 0) return std::clamp(length[i - below] + length[i - unit] - length[i - below - unit], 1, kAbsent);
    below = unit;
    found = 1;
  }
  return length[i - below];
}

// Calls delta(predicted, length&) for each symbol in order.
template <class Delta>
void walk(Lengths& lengths, unsigned digits, unsigned group, Delta&& delta) {
  std::array<int, kMaxSymbols> in_order;
  for (unsigned i = 0; i < lengths.size; ++i) {
    in_order[i] = lengths.of[i] == 0 ? kAbsent : lengths.of[i];
    delta(predicted(in_order.data(), i, digits, group), in_order[i]);
    lengths.of[i] = in_order[i] == kAbsent ? 0 : static_cast<uint8_t>(in_order[i]);
  }
}

// Both codes of each table, with the shape of their alphabets.
template <class Each>
void each_code(std::vector<Table>& tables, Each&& each) {
  for (Table& t : tables) {
    each(t.first, t.digits, t.group());
    if (t.has_second()) each(t.second, 0u, 1u);
  }
}

inline void write_map(const TableSet& set, BitWriter& w) {
  unsigned known = 0;
  for (unsigned at = 0; at < kContexts;) {
    const unsigned table = set.map[at];
    unsigned run = 1;
    while (at + run < kContexts && set.map[at + run] == table) ++run;
    w.put_slow(table == known, 1);
    if (table == known) {
      ++known;
    } else {
      w.put_slow(table, 6);
    }
    put_gamma(w, run);
    at += run;
  }
}

inline unsigned read_map(TableSet& set, BitReader& r) {
  unsigned known = 0;
  for (unsigned at = 0; at < kContexts;) {
    unsigned table = known;
    if (r.get_slow(1) != 0) {
      if (++known > kMaxTables) throw Corrupt("too many Huffman tables");
    } else {
      table = r.get_slow(6);
      if (table >= known) throw Corrupt("a context names a Huffman table that is not there");
    }
    const uint32_t run = get_gamma(r);
    if (run > kContexts - at) throw Corrupt("the context map is longer than the contexts");
    std::fill_n(set.map.begin() + at, run, static_cast<uint8_t>(table));
    at += run;
  }
  return known;
}

}  // namespace table_bits

inline void write_tables(TableSet& set, BitWriter& w) {
  using namespace table_bits;
  write_map(set, w);
  for (const Table& t : set.tables) {
    w.put_slow(t.mode, 2);
    if (t.mode == kPair || t.mode == kQuad) {
      w.put_slow(t.digits - 1, t.mode == kPair ? 4 : 2);
      w.put_slow(t.escape, 1);
    } else {
      w.put_slow(t.first.size - 1, 7);
    }
    if (t.has_second()) w.put_slow(t.second.size - 1, 7);
  }
  std::array<uint32_t, kDeltas> counts{};
  each_code(set.tables, [&](Lengths& l, unsigned digits, unsigned group) {
    walk(l, digits, group, [&](int p, int& length) { ++counts[zigzag(length - p)]; });
  });
  Lengths lengths;
  unsigned size = kDeltas;
  while (counts[size - 1] == 0) --size;
  lengths_from_counts(counts.data(), size, lengths);
  w.put_slow(size - 1, 5);
  for (unsigned i = 0; i < size; ++i) w.put_slow(lengths.of[i], 4);
  Codes codes;
  codes_from_lengths(lengths, codes);
  each_code(set.tables, [&](Lengths& l, unsigned digits, unsigned group) {
    walk(l, digits, group, [&](int p, int& length) {
      const uint32_t delta = zigzag(length - p);
      w.put_slow(codes.bits[delta], codes.length[delta]);
    });
  });
}

inline void read_tables(TableSet& set, BitReader& r) {
  using namespace table_bits;
  set.tables.assign(read_map(set, r), Table{});
  for (Table& t : set.tables) {
    t.mode = static_cast<Mode>(r.get_slow(2));
    if (t.mode == kPair || t.mode == kQuad) {
      t.digits = r.get_slow(t.mode == kPair ? 4 : 2) + 1;
      t.escape = r.get_slow(1) != 0;
      t.first.size = group_symbols(t.digits, t.group());
    } else {
      t.first.size = r.get_slow(7) + 1;
    }
    if (t.has_second()) t.second.size = r.get_slow(7) + 1;
  }
  Lengths lengths;
  lengths.size = r.get_slow(5) + 1;
  if (lengths.size > kDeltas) throw Corrupt("the code of the code lengths has too many symbols");
  for (unsigned i = 0; i < lengths.size; ++i) {
    lengths.of[i] = static_cast<uint8_t>(r.get_slow(4));
    if (lengths.of[i] > kMaxLength) throw Corrupt("a code length is too large");
  }
  static thread_local DecodeTable deltas;
  std::array<uint16_t, kMaxSymbols> payload{};
  for (unsigned i = 0; i < lengths.size; ++i) payload[i] = static_cast<uint16_t>(i);
  deltas.build(lengths, payload.data());
  each_code(set.tables, [&](Lengths& l, unsigned digits, unsigned group) {
    walk(l, digits, group, [&](int p, int& length) {
      r.refill();
      const unsigned entry = deltas.entries[r.peek() & deltas.mask];
      r.skip(entry & 15);
      length = p + unzigzag(entry >> 4);
      if (length < 1 || length > kAbsent) throw Corrupt("a code length is out of range");
    });
    if (r.overrun()) throw Corrupt("a bit stream ends before its content");
  });
}

}  // namespace tilevault
