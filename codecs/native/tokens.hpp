// Hybrid unsigned integers: small values are their own token; of larger ones the token says the top
// three bits and the rest follows raw, because below the top bits the distribution is flat.
#pragma once

#include <cstdint>

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

}  // namespace tilevault
