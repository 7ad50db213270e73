// Hybrid unsigned integers: small values are their own token; of larger ones the token says the top
// three bits and the rest follows raw, because below the top bits the distribution is flat.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tilevault {

constexpr unsigned kDirect = 16;   // tokens 0..15 are values
constexpr unsigned kTokens = 128;  // 16 + 4 for each exponent 4..31

inline uint32_t zigzag(int32_t v) { return (static_cast<uint32_t>(v) << 1) ^ static_cast<uint32_t>(v >> 31); }
inline int32_t unzigzag(uint32_t z) { return static_cast<int32_t>((z >> 1) ^ (0u - (z & 1u))); }

inline unsigned token_of(uint32_t z) {
  if (z < kDirect) return z;
  const unsigned e = 31 - static_cast<unsigned>(__builtin_clz(z));
  return kDirect + (e - 4) * 4 + ((z >> (e - 2)) & 3u);
}
// Raw bits behind a token.
inline unsigned raw_bits(unsigned token) { return token < kDirect ? 0 : (token - kDirect) / 4 + 2; }
// The value of a token with its raw bits zero.
inline uint32_t token_base(unsigned token) {
  if (token < kDirect) return token;
  return (4u + (token & 3u)) << raw_bits(token);
}


// Tokens and magnitudes (at most 32767) of a row, without branches: of z >= 16 the float32 of z / 2 has exponent
// and top bits; bits that would round up are cleared.
inline void tokens_of_row(const int32_t* v, size_t width, uint8_t* __restrict tokens, uint16_t* __restrict magnitudes) {
  for (size_t x = 0; x < width; ++x) {
    const uint32_t z = zigzag(v[x]), half = z >> 1;
    const auto f = static_cast<float>(static_cast<int32_t>(half & ~(half >> 8)));
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    tokens[x] = static_cast<uint8_t>(std::min(z, static_cast<uint32_t>(std::max(static_cast<int32_t>(bits >> 21) - 504, 16))));
    magnitudes[x] = static_cast<uint16_t>(std::min(half + (z & 1), 32767u));
  }
}

// The raw bits of all tokens, for one loop that asks no questions.
struct TokenTable {
  std::array<uint32_t, kTokens> base;
  std::array<uint8_t, kTokens> raw;
  TokenTable() {
    for (unsigned i = 0; i < kTokens; ++i) {
      base[i] = token_base(i);
      raw[i] = static_cast<uint8_t>(raw_bits(i));
    }
  }
};

}  // namespace tilevault
