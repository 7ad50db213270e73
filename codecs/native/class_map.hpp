// Classes of a row to the tables that code them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "contexts.hpp"
#include "cpu.hpp"
#ifdef TILEVAULT_DISPATCH
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace tilevault {

// map[c] for each class c of one kind of band. 48 bytes can be read at map.
inline void map_row_plain(const uint8_t* map, uint8_t* row, size_t width) {
  for (size_t x = 0; x < width; ++x) row[x] = map[row[x]];
}

#ifdef TILEVAULT_DISPATCH
// Three shuffles of 16 entries; a byte that is not among a shuffle's 16 gives zero.
__attribute__((target("avx2"))) inline void map_row_avx2(const uint8_t* map, uint8_t* row, size_t width) {
  static_assert(kClasses <= 48);
  const auto entries = [map](unsigned i) __attribute__((target("avx2"))) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(map + 16 * i)));
  };
  const __m256i m0 = entries(0), m1 = entries(1), m2 = entries(2), far = _mm256_set1_epi8(0x70);
  size_t x = 0;
  for (; x + 32 <= width; x += 32) {
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + x));
    const __m256i a = _mm256_shuffle_epi8(m0, _mm256_adds_epu8(c, far));
    const __m256i b = _mm256_shuffle_epi8(m1, _mm256_adds_epu8(_mm256_sub_epi8(c, _mm256_set1_epi8(16)), far));
    const __m256i d = _mm256_shuffle_epi8(m2, _mm256_adds_epu8(_mm256_sub_epi8(c, _mm256_set1_epi8(32)), far));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + x), _mm256_or_si256(a, _mm256_or_si256(b, d)));
  }
  map_row_plain(map, row + x, width - x);
}
#endif

inline void map_row(const uint8_t* map, uint8_t* row, size_t width) {
#ifdef TILEVAULT_DISPATCH
  if (has_avx2()) return map_row_avx2(map, row, width);
#endif
  map_row_plain(map, row, width);
}

}  // namespace tilevault
