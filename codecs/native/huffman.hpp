// Canonical, length-limited Huffman codes: lengths from counts (package-merge), codes from lengths,
// one-lookup decoding tables. Nothing here knows what a symbol means.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "bits.hpp"

namespace tilevault {

constexpr unsigned kMaxLength = 12;    // a decoding table of 4096 entries of 2 bytes stays in cache
constexpr unsigned kMaxSymbols = 256;

// Code lengths of the symbols 0..size-1; 0: the symbol does not occur. If one symbol only has a length,
// it is 1 and its code takes no bits at all.
struct Lengths {
  std::array<uint8_t, kMaxSymbols> of{};
  unsigned size = 0;
  unsigned used() const {
    unsigned n = 0;
    for (unsigned s = 0; s < size; ++s) n += of[s] != 0;
    return n;
  }
};

// Optimal lengths <= kMaxLength by package-merge (Larmore and Hirschberg 1990).
inline void lengths_from_counts(const uint32_t* counts, unsigned size, Lengths& lengths) {
  struct Leaf {
    uint64_t weight;
    uint32_t symbol;
  };
  std::array<Leaf, kMaxSymbols> leaves;
  lengths.size = size;
  lengths.of.fill(0);
  unsigned n = 0;
  for (unsigned s = 0; s < size; ++s)
    if (counts[s] != 0) leaves[n++] = {counts[s], s};
  if (n <= 2) {
    for (unsigned i = 0; i < n; ++i) lengths.of[leaves[i].symbol] = 1;
    return;
  }
  std::sort(leaves.begin(), leaves.begin() + n, [](const Leaf& a, const Leaf& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.symbol < b.symbol;
  });
  // Level by level, the merged list of leaves and of pairs of the level below; one flag per item.
  static thread_local std::array<std::array<bool, 2 * kMaxSymbols>, kMaxLength> is_leaf;
  std::array<uint64_t, 2 * kMaxSymbols> below, merged;
  unsigned below_size = 0;
  for (unsigned level = 0; level < kMaxLength; ++level) {
    const unsigned pairs = below_size / 2;
    unsigned leaf = 0, pair = 0, at = 0;
    while (leaf < n || pair < pairs) {
      const uint64_t package = pair < pairs ? below[2 * pair] + below[2 * pair + 1] : ~uint64_t{0};
      const bool take_leaf = leaf < n && leaves[leaf].weight <= package;
      is_leaf[level][at] = take_leaf;
      merged[at++] = take_leaf ? leaves[leaf++].weight : package;
      pair += !take_leaf;
    }
    std::copy(merged.begin(), merged.begin() + at, below.begin());
    below_size = at;
  }
  unsigned take = 2 * n - 2;
  for (unsigned level = kMaxLength; level-- > 0 && take != 0;) {
    unsigned leaf = 0;
    for (unsigned i = 0; i < take; ++i)
      if (is_leaf[level][i]) ++lengths.of[leaves[leaf++].symbol];
    take = 2 * (take - leaf);
  }
}

// Codes in canonical order (length, then symbol), bits reversed because the first bit of a code is
// the lowest bit in the stream.
struct Codes {
  std::array<uint16_t, kMaxSymbols> bits;
  std::array<uint8_t, kMaxSymbols> length;
};

inline uint32_t reversed(uint32_t code, unsigned length) {
  uint32_t r = 0;
  for (unsigned i = 0; i < length; ++i) r |= ((code >> i) & 1u) << (length - 1 - i);
  return r;
}

// The first code of each length; throws unless the lengths make a complete code.
inline std::array<uint32_t, kMaxLength + 2> first_codes(const Lengths& lengths) {
  std::array<uint32_t, kMaxLength + 2> count{}, first{};
  for (unsigned s = 0; s < lengths.size; ++s) ++count[lengths.of[s]];
  count[0] = 0;
  uint32_t code = 0;
  for (unsigned l = 1; l <= kMaxLength; ++l) {
    first[l] = code;
    code = (code + count[l]) << 1;
  }
  if (code != (2u << kMaxLength)) throw Corrupt("a Huffman table is oversubscribed or incomplete");
  return first;
}

inline void codes_from_lengths(const Lengths& lengths, Codes& codes) {
  codes.bits.fill(0);
  codes.length.fill(0);
  if (lengths.used() <= 1) return;
  auto next = first_codes(lengths);
  for (unsigned s = 0; s < lengths.size; ++s) {
    const unsigned l = lengths.of[s];
    if (l == 0) continue;
    codes.bits[s] = static_cast<uint16_t>(reversed(next[l]++, l));
    codes.length[s] = static_cast<uint8_t>(l);
  }
}

// A decoding table: entry = payload << 4 | length, found by the next `bits` bits.
struct DecodeTable {
  std::array<uint16_t, 1u << kMaxLength> entries;
  uint32_t mask = 0;

  // payload[s] < 4096 is what a lookup gives for symbol s.
  void build(const Lengths& lengths, const uint16_t* payload) {
    unsigned longest = 0, used = 0, last = 0;
    for (unsigned s = 0; s < lengths.size; ++s) {
      if (lengths.of[s] == 0) continue;
      ++used;
      last = s;
      longest = std::max<unsigned>(longest, lengths.of[s]);
    }
    if (used == 0) throw Corrupt("a Huffman table has no symbol");
    if (used == 1) {
      if (longest != 1) throw Corrupt("a Huffman table of one symbol has a length other than 1");
      mask = 0;
      entries[0] = static_cast<uint16_t>(payload[last] << 4);
      return;
    }
    auto next = first_codes(lengths);
    mask = (1u << longest) - 1;
    for (unsigned s = 0; s < lengths.size; ++s) {
      const unsigned l = lengths.of[s];
      if (l == 0) continue;
      const auto entry = static_cast<uint16_t>(payload[s] << 4 | l);
      for (uint32_t i = reversed(next[l]++, l); i <= mask; i += 1u << l) entries[i] = entry;
    }
  }
};

}  // namespace tilevault
