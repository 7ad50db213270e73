// Range asymmetric numeral systems (Duda 2013) with static frequencies: the entropy coder that spends
// fractions of bits. Tables only, and the two steps; who codes decides how many states take turns.
//
// A state is 32 bits, at least 2^16 between two symbols, and takes or gives at most one 16-bit word per
// symbol. Encoding runs backwards, so that decoding runs forwards.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "huffman.hpp"
#include "tokens.hpp"

namespace tilevault::ans {

constexpr unsigned kBits = 12;
constexpr uint32_t kScale = 1u << kBits;  // what the frequencies of a table sum to
constexpr uint32_t kLow = 1u << 16;       // the least state; the state before the first symbol
constexpr unsigned kMaxMantissa = 7;

// How often each token occurs, of kScale; 0: never.
struct Frequencies {
  std::array<uint16_t, kTokens> of{};
  unsigned size = 0;    // tokens from here on do not occur
  unsigned common = 0;  // the token that gets what the others leave
  unsigned mantissa = 0;  // bits of a frequency below its top bit; the rest is zero
};

// At least one count is not zero.
inline void normalise(const uint32_t* counts, Frequencies& f) {
  uint64_t total = 0, used = 0;
  f = Frequencies{};
  for (unsigned s = 0; s < kTokens; ++s) {
    total += counts[s];
    used += counts[s] != 0;
    if (counts[s] != 0) f.size = s + 1;
    if (counts[s] > counts[f.common]) f.common = s;
  }
  // A bit more for each frequency must be worth it to so many tokens.
  while (f.mantissa < kMaxMantissa && total > 45 * used << 2 * f.mantissa) ++f.mantissa;
  // To the nearest that can be sent; half a step added first or not.
  auto sendable = [&](uint32_t q, bool nearest) {
    const unsigned drop = q < (2u << f.mantissa) ? 0 : bit_length(q) - f.mantissa - 1;
    return std::max(1u, (q + (nearest ? (1u << drop) >> 1 : 0u)) >> drop << drop);
  };
  uint32_t sum = 0;
  for (unsigned s = 0; s < f.size; ++s) {
    if (counts[s] == 0 || s == f.common) continue;
    f.of[s] = static_cast<uint16_t>(sendable(static_cast<uint32_t>((counts[s] * uint64_t{kScale} + total / 2) / total), true));
    sum += f.of[s];
  }
  // Rounding may leave the commonest too little; then the others give a step each, largest first.
  while (sum + kScale / kTokens > kScale) {
    unsigned most = f.common == 0 ? 1 : 0;
    for (unsigned s = 0; s < f.size; ++s)
      if (s != f.common && f.of[s] > f.of[most]) most = s;
    const uint32_t less = sendable(f.of[most] - 1u, false);
    sum -= f.of[most] - less;
    f.of[most] = static_cast<uint16_t>(less);
  }
  f.of[f.common] = static_cast<uint16_t>(kScale - sum);
}

constexpr unsigned kLengths = kBits + 1;        // bit lengths 0..12 of what is sent
constexpr unsigned kSteps = 2 * kBits + 1;      // zigzag of the difference of two

// Calls step(difference to the bit length before, s) for each token whose frequency is sent.
template <class Step>
void walk(Frequencies& f, Step&& step) {
  unsigned before = 0;
  for (unsigned s = 0; s < f.size; ++s) {
    if (s == f.common) continue;
    step(before, s);
    before = bit_length(f.of[s]);
  }
}

inline unsigned mantissa_bits(unsigned length, unsigned most) { return length < 2 ? 0 : std::min(length - 1, most); }

inline void write_frequencies(std::vector<Frequencies>& tables, BitWriter& w) {
  std::array<uint32_t, kSteps> counts{};
  auto step_of = [](unsigned before, unsigned length) { return zigzag(static_cast<int>(length) - static_cast<int>(before)); };
  for (Frequencies& f : tables)
    walk(f, [&](unsigned before, unsigned s) { ++counts[step_of(before, bit_length(f.of[s]))]; });
  unsigned size = kSteps;
  while (size > 1 && counts[size - 1] == 0) --size;
  if (size == 1 && counts[0] == 0) counts[0] = 1;
  Lengths lengths;
  lengths_from_counts(counts.data(), size, lengths);
  Codes codes;
  codes_from_lengths(lengths, codes);
  w.put_slow(size - 1, 5);
  for (unsigned i = 0; i < size; ++i) w.put_slow(lengths.of[i], 4);
  for (Frequencies& f : tables) {
    w.put_slow(f.size - 1, 7);
    w.put_slow(f.common, 7);
    w.put_slow(f.mantissa, 3);
    walk(f, [&](unsigned before, unsigned s) {
      const unsigned length = bit_length(f.of[s]), step = step_of(before, length), n = mantissa_bits(length, f.mantissa);
      w.put_slow(codes.bits[step], codes.length[step]);
      if (n != 0) w.put_slow((f.of[s] >> (length - 1 - n)) & ((1u << n) - 1), n);
    });
  }
}

inline void read_frequencies(std::vector<Frequencies>& tables, BitReader& r) {
  Lengths lengths;
  lengths.size = r.get_slow(5) + 1;
  if (lengths.size > kSteps) throw Corrupt("the code of the frequencies has too many symbols");
  for (unsigned i = 0; i < lengths.size; ++i) {
    lengths.of[i] = static_cast<uint8_t>(r.get_slow(4));
    if (lengths.of[i] > kMaxLength) throw Corrupt("a code length is too large");
  }
  static thread_local DecodeTable steps;
  std::array<uint16_t, kMaxSymbols> payload{};
  for (unsigned i = 0; i < lengths.size; ++i) payload[i] = static_cast<uint16_t>(i);
  steps.build(lengths, payload.data());
  for (Frequencies& f : tables) {
    f = Frequencies{};
    f.size = r.get_slow(7) + 1;
    f.common = r.get_slow(7);
    f.mantissa = r.get_slow(3);
    if (f.common >= f.size) throw Corrupt("the commonest token is none of its table");
    uint32_t sum = 0;
    walk(f, [&](unsigned before, unsigned s) {
      r.refill();
      const unsigned entry = steps.entries[r.peek() & steps.mask];
      r.skip(entry & 15);
      const int length = static_cast<int>(before) + unzigzag(entry >> 4);
      if (length < 0 || length > static_cast<int>(kBits)) throw Corrupt("a frequency is out of range");
      const unsigned l = static_cast<unsigned>(length), n = mantissa_bits(l, f.mantissa);
      if (l != 0) f.of[s] = static_cast<uint16_t>(((1u << n) | r.take(n)) << (l - 1 - n));
      sum += f.of[s];
    });
    if (r.overrun()) throw Corrupt("a bit stream ends before its content");
    if (sum >= kScale) throw Corrupt("the frequencies of a table are too large");
    f.of[f.common] = static_cast<uint16_t>(kScale - sum);
  }
}

// What a state does to take a token in: with q = x / frequency, x + start + q * (kScale - frequency).
// The quotient comes from a reciprocal (Granlund and Montgomery 1994), exact for every 32-bit state.
struct Symbol {
  uint64_t limit;       // a state from here on gives a word first
  uint32_t reciprocal;  // ceil(2^(32 + shift) / frequency) - 2^32, shift = ceil(log2(frequency))
  uint32_t start;
  uint16_t complement, shift;
};

struct EncodeTable {
  std::array<Symbol, kTokens> symbols;

  void build(const Frequencies& f) {
    uint32_t start = 0;
    for (unsigned s = 0; s < f.size; ++s) {
      const uint32_t n = f.of[s];
      if (n == 0) continue;
      Symbol& to = symbols[s];
      to.limit = uint64_t{n} << (32 - kBits);
      to.shift = static_cast<uint16_t>(n == 1 ? 0 : bit_length(n - 1));
      to.reciprocal = static_cast<uint32_t>(((uint64_t{1} << (32 + to.shift)) + n - 1) / n);
      to.start = start;
      to.complement = static_cast<uint16_t>(kScale - n);
      start += n;
    }
  }
};

// Takes the token of `s` into the state; words grow downwards from out.
inline void put(uint32_t& x, const Symbol& s, uint16_t*& out) {
  const bool full = x >= s.limit;
  out[-1] = static_cast<uint16_t>(x);
  out -= full;
  x = full ? x >> 16 : x;
  const uint64_t quotient = (x + ((uint64_t{x} * s.reciprocal) >> 32)) >> s.shift;
  x += s.start + static_cast<uint32_t>(quotient) * s.complement;
}

struct DecodeStep {
  uint16_t frequency, start;
};

// 4 KiB by slot and 512 bytes by token: the context chain waits for the first only.
struct SlotTable {
  std::array<uint8_t, kScale> token;
  std::array<DecodeStep, kTokens> steps;

  void build(const Frequencies& f) {
    uint32_t start = 0;
    for (unsigned s = 0; s < f.size; ++s) {
      const uint32_t n = f.of[s];
      if (n == 0) continue;
      std::fill_n(token.begin() + start, n, static_cast<uint8_t>(s));
      steps[s] = {static_cast<uint16_t>(n), static_cast<uint16_t>(start)};
      start += n;
    }
  }
};

// The state after its token is taken out; the caller reads a word if the result is below kLow.
inline uint32_t advance(uint32_t x, const DecodeStep& s) {
  return s.frequency * (x >> kBits) + (x & (kScale - 1)) - s.start;
}

}  // namespace tilevault::ans
