// Rows of tokens by many rANS states that take turns: the token in column x belongs to state x mod lanes,
// and all states read their words from one sequence, in the order in which the tokens come. So sixteen tokens
// at a time are decoded, and whoever has no such registers gets the same tokens one by one.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "ans.hpp"
#include "cpu.hpp"
#ifdef TILEVAULT_DISPATCH
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace tilevault::ans {

constexpr unsigned kMostLanes = 32;

// States cost three bytes each, so small segments have few.
inline unsigned lanes_of(size_t tokens) { return tokens >= 32768 ? 32 : tokens >= 1024 ? 8 : tokens >= 256 ? 2 : 1; }

// By slot of each table: token, its frequency, the token's first slot.
class WideTables {
 public:
  static constexpr unsigned kFrequency = 7, kStart = 20;  // where they begin

  void build(const std::vector<Frequencies>& tables) {
    // Filled in steps of 16; what is written too far is overwritten by what comes next.
    constexpr uint32_t kStep = 16;
    if (entries_.size() < tables.size() * kScale + kStep) entries_.resize(tables.size() * kScale + kStep);
    uint32_t* at = entries_.data();
    for (const Frequencies& f : tables) {
      uint32_t start = 0;
      for (unsigned s = 0; s < f.size; ++s) {
        const uint32_t n = f.of[s], entry = s | n << kFrequency | start << kStart;
        for (uint32_t i = 0; i < n; i += kStep) std::fill_n(at + i, kStep, entry);
        at += n;
        start += n;
      }
    }
  }
  const uint32_t* data() const { return entries_.data(); }

 private:
  std::vector<uint32_t> entries_;
};

constexpr uint32_t kTokenMask = (1u << WideTables::kFrequency) - 1;
constexpr uint32_t kFrequencyMask = (1u << (WideTables::kStart - WideTables::kFrequency)) - 1;

// One segment: the states, 4 bytes each, then the words.
class RowReader {
 public:
  RowReader(Bytes in, unsigned lanes, bool wide = has_avx512())
      : p_(in.data), end_(in.data + in.size), mask_(lanes - 1), wide_(wide && lanes == kMostLanes) {
    if (in.size < 4 * size_t{lanes} || in.size % 2 != 0) throw Corrupt("a segment ends before its content");
    for (unsigned i = 0; i < lanes; ++i, p_ += 4) {
      state_[i] = static_cast<uint32_t>(p_[0] | p_[1] << 8 | p_[2] << 16) | static_cast<uint32_t>(p_[3]) << 24;
      if (state_[i] < kLow) throw Corrupt("a state is out of range");
    }
  }

  // The tokens of a row whose token x is coded by tables[which[x]].
  void row(const WideTables& from, const uint8_t* which, size_t width, uint8_t* tokens) {
    const uint32_t* tables = from.data();
    // A token takes at most one word, a vector of 16 looks at 16.
    if (static_cast<size_t>(end_ - p_) < 2 * width + 32) return scalar<true>(tables, which, width, tokens);
#ifdef TILEVAULT_DISPATCH
    if (wide_) return wide(tables, which, width, tokens);
#endif
    scalar<false>(tables, which, width, tokens);
  }

  void expect_end() const {
    for (unsigned i = 0; i <= mask_; ++i)
      if (state_[i] != kLow) throw Corrupt("a segment does not end in its first state");
    if (p_ != end_) throw Corrupt("bytes follow the end of a segment");
  }

 private:
  template <bool checked>
  void scalar(const uint32_t* tables, const uint8_t* which, size_t width, uint8_t* tokens) {
    const uint8_t* p = p_;
    for (size_t x = 0; x < width; ++x) {
      uint32_t s = state_[x & mask_];
      const uint32_t e = tables[(uint32_t{which[x]} << kBits) + (s & (kScale - 1))];
      tokens[x] = static_cast<uint8_t>(e & kTokenMask);
      s = (e >> WideTables::kFrequency & kFrequencyMask) * (s >> kBits) + (s & (kScale - 1)) - (e >> WideTables::kStart);
      const bool need = s < kLow;
      if (checked) {
        if (need) {
          if (p == end_) throw Corrupt("a segment ends before its content");
          s = s << 16 | static_cast<uint32_t>(p[0] | p[1] << 8);
        }
      } else {
        s = need ? s << 16 | static_cast<uint32_t>(p[0] | p[1] << 8) : s;
      }
      p += need ? 2 : 0;
      state_[x & mask_] = s;
    }
    p_ = p;
  }

#ifdef TILEVAULT_DISPATCH
#define TILEVAULT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi,bmi2,lzcnt,popcnt")))
  TILEVAULT_AVX512 static __m512i step(__m512i s, const uint32_t* tables, const uint8_t* which, __mmask16 live, uint8_t* tokens, const uint8_t*& p) {
    const __m512i table = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(live, which)), kBits);
    const __m512i slot = _mm512_and_si512(s, _mm512_set1_epi32(kScale - 1));
    const __m512i e = _mm512_i32gather_epi32(_mm512_or_si512(table, slot), tables, 4);
    _mm512_mask_cvtepi32_storeu_epi8(tokens, live, _mm512_and_si512(e, _mm512_set1_epi32(kTokenMask)));
    const __m512i f = _mm512_and_si512(_mm512_srli_epi32(e, WideTables::kFrequency), _mm512_set1_epi32(kFrequencyMask));
    const __m512i place = _mm512_sub_epi32(slot, _mm512_srli_epi32(e, WideTables::kStart));
    __m512i n = _mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srli_epi32(s, kBits)), place);
    n = _mm512_mask_mov_epi32(s, live, n);
    const __mmask16 need = _mm512_cmplt_epu32_mask(n, _mm512_set1_epi32(kLow));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    p += 2 * _mm_popcnt_u32(need);
    return _mm512_mask_or_epi32(n, need, _mm512_slli_epi32(n, 16), _mm512_maskz_expand_epi32(need, words));
  }

  TILEVAULT_AVX512 void wide(const uint32_t* tables, const uint8_t* which, size_t width, uint8_t* tokens) {
    const uint8_t* p = p_;
    __m512i s0 = _mm512_loadu_si512(state_.data()), s1 = _mm512_loadu_si512(state_.data() + 16);
    size_t x = 0;
    for (; x + 32 <= width; x += 32) {
      s0 = step(s0, tables, which + x, 0xFFFF, tokens + x, p);
      s1 = step(s1, tables, which + x + 16, 0xFFFF, tokens + x + 16, p);
    }
    if (x < width) {
      const uint32_t live = (1u << (width - x)) - 1;
      s0 = step(s0, tables, which + x, static_cast<__mmask16>(live), tokens + x, p);
      if (live >> 16 != 0) s1 = step(s1, tables, which + x + 16, static_cast<__mmask16>(live >> 16), tokens + x + 16, p);
    }
    _mm512_storeu_si512(state_.data(), s0);
    _mm512_storeu_si512(state_.data() + 16, s1);
    p_ = p;
  }
#endif

  const uint8_t* p_;
  const uint8_t* end_;
  unsigned mask_;
  bool wide_;
  alignas(64) std::array<uint32_t, kMostLanes> state_{};
};

// What the encoder looks up.
struct WideEncodeTable {
  EncodeTable one;                          // a token at a time
  std::array<uint32_t, kTokens> intervals;  // frequency | start << 16

  void build(const Frequencies& f) {
    one.build(f);
    uint32_t start = 0;
    for (unsigned s = 0; s < f.size; ++s) {
      intervals[s] = f.of[s] | start << 16;
      start += f.of[s];
    }
  }
};

// Writes a segment backwards: the last row first. Two bytes per token and 4 * kMostLanes before `end`, and 32
// bytes before those, are there.
class RowWriter {
 public:
  RowWriter(uint8_t* end, unsigned lanes, bool wide = has_avx512())
      : p_(end), end_(end), mask_(lanes - 1), wide_(wide && lanes == kMostLanes) {
    state_.fill(kLow);
  }

  void row(const WideEncodeTable* tables, const uint8_t* which, const uint8_t* tokens, size_t width) {
#ifdef TILEVAULT_DISPATCH
    if (wide_) return wide(tables, which, tokens, width);
#endif
    uint8_t* p = p_;
    for (size_t x = width; x-- > 0;) {
      const Symbol& t = tables[which[x]].one.symbols[tokens[x]];
      uint32_t s = state_[x & mask_];
      const bool full = s >= t.limit;
      p[-2] = static_cast<uint8_t>(s);
      p[-1] = static_cast<uint8_t>(s >> 8);
      p -= full ? 2 : 0;
      s = full ? s >> 16 : s;
      const uint64_t quotient = (s + ((uint64_t{s} * t.reciprocal) >> 32)) >> t.shift;
      state_[x & mask_] = s + t.start + static_cast<uint32_t>(quotient) * t.complement;
    }
    p_ = p;
  }

  Bytes finish() {
    for (unsigned i = mask_ + 1; i-- > 0;) {
      p_ -= 4;
      for (unsigned k = 0; k < 4; ++k) p_[k] = static_cast<uint8_t>(state_[i] >> (8 * k));
    }
    return {p_, static_cast<size_t>(end_ - p_)};
  }

 private:
#ifdef TILEVAULT_DISPATCH
  TILEVAULT_AVX512 static __m512i step(__m512i s, const WideEncodeTable* tables, const uint8_t* which, const uint8_t* tokens, __mmask16 live, uint8_t*& p) {
    constexpr int kStride = sizeof(WideEncodeTable) / 4, kFirst = offsetof(WideEncodeTable, intervals) / 4;
    const __m512i table = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(live, which)), _mm512_set1_epi32(kStride));
    const __m512i token = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(live, tokens));
    const __m512i q = _mm512_i32gather_epi32(_mm512_add_epi32(table, token), reinterpret_cast<const int*>(tables) + kFirst, 4);
    const __m512i f = _mm512_and_si512(q, _mm512_set1_epi32(0xFFFF)), start = _mm512_srli_epi32(q, 16);
    // frequency << 20 overflows for one token that is all there is: it is never full.
    const __m512i top = _mm512_sub_epi32(_mm512_slli_epi32(f, 32 - kBits), _mm512_set1_epi32(1));
    const __mmask16 full = _mm512_mask_cmpgt_epu32_mask(live, s, top);
    const unsigned words = static_cast<unsigned>(_mm_popcnt_u32(full));
    p -= 2 * words;
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << words) - 1), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, s)));
    const __m512i y = _mm512_mask_srli_epi32(s, full, s, 16);
    // The quotient is below 2^20, so the float's is wrong by one at most.
    __m512i quotient = _mm512_cvttps_epi32(_mm512_div_ps(_mm512_cvtepu32_ps(y), _mm512_cvtepi32_ps(f)));
    __m512i left = _mm512_sub_epi32(y, _mm512_mullo_epi32(quotient, f));
    const __mmask16 high = _mm512_cmplt_epi32_mask(left, _mm512_setzero_si512());
    quotient = _mm512_mask_sub_epi32(quotient, high, quotient, _mm512_set1_epi32(1));
    left = _mm512_mask_add_epi32(left, high, left, f);
    const __mmask16 low = _mm512_cmpge_epi32_mask(left, f);
    quotient = _mm512_mask_add_epi32(quotient, low, quotient, _mm512_set1_epi32(1));
    left = _mm512_mask_sub_epi32(left, low, left, f);
    const __m512i n = _mm512_add_epi32(_mm512_slli_epi32(quotient, kBits), _mm512_add_epi32(left, start));
    return _mm512_mask_mov_epi32(s, live, n);
  }

  TILEVAULT_AVX512 void wide(const WideEncodeTable* tables, const uint8_t* which, const uint8_t* tokens, size_t width) {
    uint8_t* p = p_;
    __m512i s0 = _mm512_loadu_si512(state_.data()), s1 = _mm512_loadu_si512(state_.data() + 16);
    size_t x = width & ~size_t{31};
    if (x < width) {
      const uint32_t live = (1u << (width - x)) - 1;
      if (live >> 16 != 0) s1 = step(s1, tables, which + x + 16, tokens + x + 16, static_cast<__mmask16>(live >> 16), p);
      s0 = step(s0, tables, which + x, tokens + x, static_cast<__mmask16>(live), p);
    }
    while (x != 0) {
      x -= 32;
      s1 = step(s1, tables, which + x + 16, tokens + x + 16, 0xFFFF, p);
      s0 = step(s0, tables, which + x, tokens + x, 0xFFFF, p);
    }
    _mm512_storeu_si512(state_.data(), s0);
    _mm512_storeu_si512(state_.data() + 16, s1);
    p_ = p;
  }
#endif

  uint8_t* p_;
  uint8_t* end_;
  unsigned mask_;
  bool wide_;
  alignas(64) std::array<uint32_t, kMostLanes> state_;
};

}  // namespace tilevault::ans
