// Symbols of known chances to bytes: rANS (Duda 2013) with frequencies of 2^15 and states that take turns.
//
// A symbol is a range of slots: its first and how many. States are 32 bits, at least 2^16 between symbols, and
// give or take at most one 16-bit word for each symbol; encoding runs backwards, so that decoding runs forwards.
#pragma once

#include <vector>

#include "lossy_model.hpp"
#ifdef TILEVAULT_DISPATCH
#include <immintrin.h>
#endif

namespace tilevault::lossy {

constexpr uint32_t kSlots = 1u << kScaleBits;
constexpr uint32_t kLowState = 1u << 16;
constexpr unsigned kMostRaw = 12;      // raw bits of one symbol
constexpr unsigned kManyStates = 4;

class SymbolWriter {
 public:
  void clear() { symbols_.clear(); }
  size_t size() const { return symbols_.size(); }
  void truncate(size_t size) { symbols_.resize(size); }
  void put(uint32_t start, uint32_t frequency) { symbols_.push_back(start | frequency << 16); }
  // ones: slots of true.
  void put_bit(bool value, uint32_t ones) { value ? put(0, ones) : put(ones, kSlots - ones); }
  void put_raw(uint32_t value, unsigned bits) {
    for (; bits > kMostRaw; bits -= kMostRaw) put_part(value >> (bits - kMostRaw) & ((1u << kMostRaw) - 1), kMostRaw);
    if (bits != 0) put_part(value & ((1u << bits) - 1), bits);
  }

  // Appends the states and the words of all symbols.
  void write(unsigned states, std::vector<uint8_t>& out) const {
    uint32_t state[kManyStates] = {kLowState, kLowState, kLowState, kLowState};
    std::vector<uint16_t> words;
    for (size_t i = symbols_.size(); i-- > 0;) {
      const uint32_t start = symbols_[i] & 0xFFFF, n = symbols_[i] >> 16;
      uint32_t& x = state[i & (states - 1)];
      if (x >= uint64_t{n} << (32 - kScaleBits)) {
        words.push_back(static_cast<uint16_t>(x));
        x >>= 16;
      }
      x = ((x / n) << kScaleBits) + x % n + start;
    }
    for (unsigned i = 0; i < states; ++i)
      for (unsigned b = 0; b < 4; ++b) out.push_back(static_cast<uint8_t>(state[i] >> (8 * b)));
    for (size_t i = words.size(); i-- > 0;) {
      out.push_back(static_cast<uint8_t>(words[i]));
      out.push_back(static_cast<uint8_t>(words[i] >> 8));
    }
  }

 private:
  void put_part(uint32_t value, unsigned bits) { put(value << (kScaleBits - bits), 1u << (kScaleBits - bits)); }
  std::vector<uint32_t> symbols_;
};

class SymbolReader {
 public:
  SymbolReader(Bytes in, unsigned states) : p_(in.data), end_(in.data + in.size), states_(states) {
    if (in.size < 4 * size_t{states} || in.size % 2 != 0) throw Corrupt("the symbols end before their content");
    for (unsigned i = 0; i < states; ++i, p_ += 4) {
      state_[i] = load_le32(p_);
      if (state_[i] < kLowState) throw Corrupt("a state is out of range");
    }
  }

  unsigned token(const Row& row) {
    const uint32_t slot = state_[turn_] & (kSlots - 1);
    const unsigned t = find(row, slot);
    advance(row.start[t], row.start[t + 1] - uint32_t{row.start[t]});
    return t;
  }

  bool bit(uint32_t ones) {
    const bool value = (state_[turn_] & (kSlots - 1)) < ones;
    advance(value ? 0 : ones, value ? ones : kSlots - ones);
    return value;
  }

  uint32_t raw(unsigned bits) {
    uint32_t value = 0;
    for (; bits > kMostRaw; bits -= kMostRaw) value = value << kMostRaw | part(kMostRaw);
    return bits == 0 ? value : value << bits | part(bits);
  }

  void expect_end() const {
    for (unsigned i = 0; i < states_; ++i)
      if (state_[i] != kLowState) throw Corrupt("the symbols do not end in their first state");
    if (p_ != end_) throw Corrupt("bytes follow the end of the symbols");
  }

 private:
  // The last token that starts at the slot or before it: tokens that never occur start where the next does.
  static unsigned find(const Row& row, uint32_t slot) {
#if defined(TILEVAULT_DISPATCH) && defined(__SSE2__)
    const __m128i s = _mm_set1_epi16(static_cast<int16_t>(slot));
    unsigned later = 0;
    for (unsigned i = 0; i < kTokens; i += 16) {
      const auto* p = reinterpret_cast<const __m128i*>(row.start.data() + i);
      const __m128i a = _mm_cmpgt_epi16(_mm_loadu_si128(p), s), b = _mm_cmpgt_epi16(_mm_loadu_si128(p + 1), s);
      later |= static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(a, b))) << i;
    }
    return later == 0 ? kTokens - 1 : static_cast<unsigned>(__builtin_ctz(later)) - 1;
#else
    unsigned t = kTokens - 1;
    while (row.start[t] > slot) --t;
    return t;
#endif
  }

  uint32_t part(unsigned bits) {
    const uint32_t value = (state_[turn_] & (kSlots - 1)) >> (kScaleBits - bits);
    advance(value << (kScaleBits - bits), 1u << (kScaleBits - bits));
    return value;
  }

  void advance(uint32_t start, uint32_t n) {
    uint32_t& x = state_[turn_];
    x = n * (x >> kScaleBits) + (x & (kSlots - 1)) - start;
    if (x < kLowState) {
      if (p_ == end_) throw Corrupt("the symbols end before their content");
      x = x << 16 | load_le16(p_);
      p_ += 2;
    }
    turn_ = (turn_ + 1) & (states_ - 1);
  }

  const uint8_t* p_;
  const uint8_t* end_;
  unsigned states_, turn_ = 0;
  uint32_t state_[kManyStates] = {};
};

}  // namespace tilevault::lossy
