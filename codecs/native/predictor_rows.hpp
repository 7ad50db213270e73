// The kernels of one row. Without an include guard: predictor.hpp includes it once per instruction set, each
// time inside a namespace of its own.

inline uint32_t distance(int32_t a, int32_t b, unsigned shift) {
  const int32_t d = static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b)) >> shift;
  const uint32_t m = d < 0 ? 0u - static_cast<uint32_t>(d) : static_cast<uint32_t>(d);
  return m < kDifferenceCap ? m : kDifferenceCap;
}

// The class of each sample, and the part of its energy that does not come from its own row.
inline void classify(const RowView& r, const Filters& f, int32_t* classes, uint32_t* energy) {
  const size_t width = r.width;
  const int32_t *n = r.n, *nn = r.nn;
  uint32_t *across = r.across, *down = r.down;
  const unsigned shift = f.shift;
  const std::ptrdiff_t end = static_cast<std::ptrdiff_t>(width) + 2;
  for (std::ptrdiff_t x = -1; x < end; ++x) {
    across[x] = distance(n[x], n[x - 1], shift);
    down[x] = distance(n[x], nn[x], shift);
  }
  const uint16_t *m = r.magnitude_n, *mm = r.magnitude_nn;
  uint32_t threshold[kMaxThresholds];
  for (unsigned k = 0; k < kMaxThresholds; ++k) threshold[k] = k < f.thresholds ? f.threshold[k] : 0x7FFFFFFFu;
  const int32_t factor = f.direction ? 2 : 1, direction = f.direction ? 1 : 0;
  const int32_t t0 = static_cast<int32_t>(threshold[0]), t1 = static_cast<int32_t>(threshold[1]), t2 = static_cast<int32_t>(threshold[2]);
  for (size_t i = 0; i < width; ++i) {
    const std::ptrdiff_t x = static_cast<std::ptrdiff_t>(i);
    const uint32_t beside = across[x] + across[x + 1], above = 2 * down[x] + down[x - 1] + down[x + 1];
    const uint32_t activity = 2 * beside + across[x - 1] + across[x + 2] + above;
    const int32_t a = static_cast<int32_t>(activity);
    const int32_t level = static_cast<int32_t>(a >= t0) + static_cast<int32_t>(a >= t1) + static_cast<int32_t>(a >= t2);
    const int32_t steep = static_cast<int32_t>(2 * beside > above);
    classes[x] = level * factor + (steep & direction);
    energy[x] = 7u * m[x] + 5u * (m[x - 1] + m[x + 1]) + 4u * (mm[x] + m[x + 2]) + 3u * (m[x - 2] + mm[x - 1] + mm[x + 1]) + (3 * activity >> 2);
  }
}

// The sum of coefficient times difference over the taps, with the constant, for each sample.
inline void add_taps(const Tap* taps, unsigned count, const int32_t* constant, const int32_t* classes, size_t width,
                     unsigned shift, int32_t* sums) {
  size_t i = 0;
#ifdef TILEVAULT_ROWS_AVX2
  const __m128i shifts = _mm_cvtsi32_si128(static_cast<int>(shift));
  const __m256i constants = _mm256_load_si256(reinterpret_cast<const __m256i*>(constant));
  for (; i + 8 <= width; i += 8) {
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(classes + i));
    __m256i sum = _mm256_permutevar8x32_epi32(constants, c);
    for (unsigned k = 0; k < count; ++k) {
      const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[k].at + i));
      const __m256i relative = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[k].relative_to + i));
      const __m256i coefficients = _mm256_load_si256(reinterpret_cast<const __m256i*>(taps[k].coefficients));
      const __m256i difference = _mm256_sra_epi32(_mm256_sub_epi32(at, relative), shifts);
      sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_permutevar8x32_epi32(coefficients, c), difference));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), sum);
  }
#endif
  for (; i < width; ++i) {
    uint32_t sum = static_cast<uint32_t>(constant[classes[i]]);
    for (unsigned k = 0; k < count; ++k) {
      const int32_t d = static_cast<int32_t>(static_cast<uint32_t>(taps[k].at[i]) - static_cast<uint32_t>(taps[k].relative_to[i])) >> shift;
      sum += static_cast<uint32_t>(d) * static_cast<uint32_t>(taps[k].coefficients[classes[i]]);
    }
    sums[i] = static_cast<int32_t>(sum);
  }
}

// The same sums where rows and coefficients fit 16 bits: pairs of rows, pairs of coefficients in one word.
inline void add_pairs(const Pair* pairs, unsigned count, const int32_t* constant, const int32_t* classes, size_t width, int32_t* sums) {
  size_t i = 0;
#ifdef TILEVAULT_ROWS_AVX2
  const __m256i constants = _mm256_load_si256(reinterpret_cast<const __m256i*>(constant));
  for (; i + 16 <= width; i += 16) {
    const __m256i c0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(classes + i));
    const __m256i c1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(classes + i + 8));
    // As unpacking 16-bit rows orders them: samples 0-3 and 8-11, then 4-7 and 12-15.
    const __m256i low = _mm256_permute2x128_si256(c0, c1, 0x20), high = _mm256_permute2x128_si256(c0, c1, 0x31);
    __m256i sum_low = _mm256_permutevar8x32_epi32(constants, low), sum_high = _mm256_permutevar8x32_epi32(constants, high);
    for (unsigned k = 0; k < count; ++k) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs[k].first + i));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs[k].second + i));
      const __m256i coefficients = _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs[k].coefficients));
      sum_low = _mm256_add_epi32(sum_low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_permutevar8x32_epi32(coefficients, low)));
      sum_high = _mm256_add_epi32(sum_high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_permutevar8x32_epi32(coefficients, high)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), _mm256_permute2x128_si256(sum_low, sum_high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i + 8), _mm256_permute2x128_si256(sum_low, sum_high, 0x31));
  }
#endif
  for (; i < width; ++i) {
    uint32_t sum = static_cast<uint32_t>(constant[classes[i]]);
    for (unsigned k = 0; k < count; ++k) {
      const uint32_t both = static_cast<uint32_t>(pairs[k].coefficients[classes[i]]);
      sum += static_cast<uint32_t>(pairs[k].first[i] * static_cast<int16_t>(both)) +
             static_cast<uint32_t>(pairs[k].second[i] * static_cast<int16_t>(both >> 16));
    }
    sums[i] = static_cast<int32_t>(sum);
  }
}
