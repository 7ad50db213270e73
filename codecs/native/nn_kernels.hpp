// The kernels of integer networks, compiled once for each path by nn_paths.hpp, which says before it includes
// this: TILEVAULT_NN_PATH, the namespace, and TILEVAULT_NN_LANES, the int32 in a vector; TILEVAULT_NN_VNNI where
// products can be added in one instruction. Below the vectors nothing knows the path.
//
// All sums are int32, bounded by the loader, so their order is free. One step multiplies pairs of int16 and adds
// both products (vpdpwssd, vpmaddwd): pairs of input channels where a layer is dense, pairs of rows where it is
// depthwise. Rounding is in the bias: out = clamp((sum + bias + half) >> shift).

namespace tilevault::nn::TILEVAULT_NN_PATH {

constexpr size_t kLanes = TILEVAULT_NN_LANES, kBlock = 2 * kLanes;

#define TILEVAULT_NN_INLINE __attribute__((always_inline)) inline

#if TILEVAULT_NN_LANES == 16
using Vector = __m512i;
TILEVAULT_NN_INLINE Vector load(const void* p) { return _mm512_loadu_si512(p); }
TILEVAULT_NN_INLINE void store(void* p, Vector v) { _mm512_storeu_si512(p, v); }
TILEVAULT_NN_INLINE void store_half(void* p, Vector v) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_castsi512_si256(v)); }
TILEVAULT_NN_INLINE Vector spread(int32_t pair) { return _mm512_set1_epi32(pair); }
#ifdef TILEVAULT_NN_VNNI
// Not the intrinsic: gcc 12 copies its sums before and after each use, which halves the speed.
TILEVAULT_NN_INLINE Vector dot(Vector sum, Vector a, Vector b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
  return sum;
}
#else
TILEVAULT_NN_INLINE Vector dot(Vector sum, Vector a, Vector b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
#endif
TILEVAULT_NN_INLINE Vector shifted(Vector v, Vector by) { return _mm512_srav_epi32(v, by); }
TILEVAULT_NN_INLINE Vector pack(Vector a, Vector b) { return _mm512_packs_epi32(a, b); }
TILEVAULT_NN_INLINE Vector low_pairs(Vector a, Vector b) { return _mm512_unpacklo_epi16(a, b); }
TILEVAULT_NN_INLINE Vector high_pairs(Vector a, Vector b) { return _mm512_unpackhi_epi16(a, b); }
TILEVAULT_NN_INLINE Vector sum16(Vector a, Vector b) { return _mm512_adds_epi16(a, b); }
TILEVAULT_NN_INLINE Vector clamp(Vector v, Vector low, Vector high) { return _mm512_min_epi16(_mm512_max_epi16(v, low), high); }
constexpr size_t kRegisters = 24;  // for sums
constexpr size_t kUnit = 4;        // what packing takes from one vector before it turns to the other
#elif TILEVAULT_NN_LANES == 8 && defined(TILEVAULT_NN_AVX2)
using Vector = __m256i;
TILEVAULT_NN_INLINE Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TILEVAULT_NN_INLINE void store(void* p, Vector v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
TILEVAULT_NN_INLINE void store_half(void*, Vector) {}  // blocks are kChannelStep channels here
TILEVAULT_NN_INLINE Vector spread(int32_t pair) { return _mm256_set1_epi32(pair); }
TILEVAULT_NN_INLINE Vector dot(Vector sum, Vector a, Vector b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
TILEVAULT_NN_INLINE Vector shifted(Vector v, Vector by) { return _mm256_srav_epi32(v, by); }
TILEVAULT_NN_INLINE Vector pack(Vector a, Vector b) { return _mm256_packs_epi32(a, b); }
TILEVAULT_NN_INLINE Vector low_pairs(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
TILEVAULT_NN_INLINE Vector high_pairs(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
TILEVAULT_NN_INLINE Vector sum16(Vector a, Vector b) { return _mm256_adds_epi16(a, b); }
TILEVAULT_NN_INLINE Vector clamp(Vector v, Vector low, Vector high) { return _mm256_min_epi16(_mm256_max_epi16(v, low), high); }
constexpr size_t kRegisters = 8;
constexpr size_t kUnit = 4;
#else
// Plain C++: what the vectors of the other paths do, channel by channel in their order.
struct Vector {
  int16_t of[2 * kLanes];
};
struct Sums {
  uint32_t of[kLanes];  // wraps where a pixel beyond the row is summed
};
TILEVAULT_NN_INLINE Vector load(const void* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
TILEVAULT_NN_INLINE void store(void* p, const Vector& v) { std::memcpy(p, &v, sizeof v); }
TILEVAULT_NN_INLINE void store_half(void*, const Vector&) {}
TILEVAULT_NN_INLINE Sums sums_of(const Vector& v) {
  Sums s;
  std::memcpy(&s, &v, sizeof s);
  return s;
}
TILEVAULT_NN_INLINE Vector vector_of(const Sums& s) {
  Vector v;
  std::memcpy(&v, &s, sizeof v);
  return v;
}
TILEVAULT_NN_INLINE Vector spread(int32_t pair) {
  Sums s;
  for (size_t i = 0; i < kLanes; ++i) s.of[i] = static_cast<uint32_t>(pair);
  return vector_of(s);
}
TILEVAULT_NN_INLINE Vector dot(const Vector& sum, const Vector& a, const Vector& b) {
  Sums s = sums_of(sum);
  for (size_t i = 0; i < kLanes; ++i)
    s.of[i] += static_cast<uint32_t>(a.of[2 * i] * b.of[2 * i]) + static_cast<uint32_t>(a.of[2 * i + 1] * b.of[2 * i + 1]);
  return vector_of(s);
}
TILEVAULT_NN_INLINE Vector shifted(const Vector& v, const Vector& by) {
  Sums s = sums_of(v), n = sums_of(by);
  for (size_t i = 0; i < kLanes; ++i) s.of[i] = static_cast<uint32_t>(static_cast<int32_t>(s.of[i]) >> n.of[i]);
  return vector_of(s);
}
TILEVAULT_NN_INLINE int16_t saturated(int32_t v) { return static_cast<int16_t>(v < -32768 ? -32768 : v > 32767 ? 32767 : v); }
TILEVAULT_NN_INLINE Vector pack(const Vector& a, const Vector& b) {
  const Sums s = sums_of(a), t = sums_of(b);
  Vector v;
  for (size_t i = 0; i < kLanes; ++i) {
    v.of[i] = saturated(static_cast<int32_t>(s.of[i]));
    v.of[kLanes + i] = saturated(static_cast<int32_t>(t.of[i]));
  }
  return v;
}
TILEVAULT_NN_INLINE Vector low_pairs(const Vector& a, const Vector& b) {
  Vector v;
  for (size_t i = 0; i < kLanes; ++i) v.of[2 * i] = a.of[i], v.of[2 * i + 1] = b.of[i];
  return v;
}
TILEVAULT_NN_INLINE Vector high_pairs(const Vector& a, const Vector& b) {
  Vector v;
  for (size_t i = 0; i < kLanes; ++i) v.of[2 * i] = a.of[kLanes + i], v.of[2 * i + 1] = b.of[kLanes + i];
  return v;
}
TILEVAULT_NN_INLINE Vector sum16(const Vector& a, const Vector& b) {
  Vector v;
  for (size_t i = 0; i < 2 * kLanes; ++i) v.of[i] = saturated(a.of[i] + b.of[i]);
  return v;
}
TILEVAULT_NN_INLINE Vector clamp(Vector v, const Vector& low, const Vector& high) {
  for (size_t i = 0; i < 2 * kLanes; ++i) {
    const int16_t raised = v.of[i] < low.of[i] ? low.of[i] : v.of[i];
    v.of[i] = raised > high.of[i] ? high.of[i] : raised;
  }
  return v;
}
constexpr size_t kRegisters = 4;
constexpr size_t kUnit = kLanes;
#endif

// Two vectors of sums hold a block of 2 * kLanes channels as `pack` wants them; where half a block is left, one
// vector holds it in its own order.
inline size_t channel(size_t position, size_t all) {
  const size_t block = position / kBlock * kBlock, at = position % kBlock;
  if (all - block < kBlock) return position;
  const size_t lane = at % kLanes;
  return block + lane / kUnit * 2 * kUnit + at / kLanes * kUnit + lane % kUnit;
}

TILEVAULT_NN_INLINE int32_t pair_at(const int16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return pair;
}

// Sums of the block's channels to int16 in [low, high].
TILEVAULT_NN_INLINE void finish(const Packed& layer, size_t first, Vector a, Vector b, int16_t* out) {
  const Vector v = pack(shifted(a, load(layer.shift.data() + first)), shifted(b, load(layer.shift.data() + first + kLanes)));
  store(out + first, clamp(v, load(layer.low.data() + first), load(layer.high.data() + first)));
}

// The half block, one vector of sums.
TILEVAULT_NN_INLINE void finish_half(const Packed& layer, size_t first, Vector a, int16_t* out) {
#if TILEVAULT_NN_LANES == 16
  const __m256i v = _mm512_cvtsepi32_epi16(shifted(a, load(layer.shift.data() + first)));
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer.low.data() + first));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer.high.data() + first));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + first), _mm256_min_epi16(_mm256_max_epi16(v, low), high));
#else
  (void)layer, (void)first, (void)a, (void)out;  // kChannelStep is a whole block
#endif
}

constexpr size_t kMostPixels = 12;  // at a time

// `vectors` vectors of sums of `pixels` pixels: each weight that is loaded serves all pixels, each pair of
// channels that is spread serves all vectors. Returns where the next group's weights begin.
template <size_t vectors, size_t pixels>
TILEVAULT_NN_INLINE const int16_t* dense_block(const Packed& layer, const Rows& rows, size_t x, size_t first, const int16_t* w) {
  Vector sums[pixels][vectors];
  for (size_t v = 0; v < vectors; ++v) {
    const Vector bias = load(layer.bias.data() + first + v * kLanes);
    for (size_t i = 0; i < pixels; ++i) sums[i][v] = bias;
  }
  const size_t pairs = (layer.in + 1) / 2, step = rows.in_pixel;
  const ptrdiff_t radius = static_cast<ptrdiff_t>(layer.size / 2);
  for (size_t ky = 0; ky < layer.size; ++ky) {
    for (size_t kx = 0; kx < layer.size; ++kx) {
      const int16_t* a = rows.in[ky] + (static_cast<ptrdiff_t>(x + kx) - radius) * static_cast<ptrdiff_t>(step);
      for (size_t p = 0; p < pairs; ++p, a += 2, w += vectors * kBlock) {
        Vector weights[vectors];
        for (size_t v = 0; v < vectors; ++v) weights[v] = load(w + v * kBlock);
#pragma GCC unroll 16
        for (size_t i = 0; i < pixels; ++i) {
          const Vector one = spread(pair_at(a + i * step));
#pragma GCC unroll 4
          for (size_t v = 0; v < vectors; ++v) sums[i][v] = dot(sums[i][v], one, weights[v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < pixels; ++i) {
    int16_t* out = rows.out + (x + i) * rows.out_pixel;
#pragma GCC unroll 4
    for (size_t v = 0; v + 1 < vectors; v += 2) finish(layer, first + v * kLanes, sums[i][v], sums[i][v + 1], out);
    if (vectors % 2 != 0) finish_half(layer, first + (vectors - 1) * kLanes, sums[i][vectors - 1], out);
  }
  return w;
}

constexpr size_t kGroup = kLanes == 16 ? 4 : 2;  // vectors of sums of one pixel, at most

// As many pixels at a time as there are registers, then two at a time. May write one pixel too much.
template <size_t vectors>
TILEVAULT_NN_INLINE const int16_t* dense_group(const Packed& layer, const Rows& rows, size_t x, size_t first, const int16_t* w) {
  constexpr size_t kPixels = kRegisters / vectors < kMostPixels ? kRegisters / vectors : kMostPixels;
  const int16_t* after = w;
  for (; x + kPixels <= rows.width; x += kPixels) after = dense_block<vectors, kPixels>(layer, rows, x, first, w);
  for (; x < rows.width; x += 2) after = dense_block<vectors, 2>(layer, rows, x, first, w);
  return after;
}

inline void dense_from(const Packed& layer, const Rows& rows, size_t x) {
  const size_t all = padded(layer.out) / kLanes;
  const int16_t* w = layer.weights.data();
  for (size_t v = 0; v < all; v += kGroup) {
    const size_t vectors = all - v < kGroup ? all - v : kGroup;
    if (vectors == kGroup) {
      w = dense_group<kGroup>(layer, rows, x, v * kLanes, w);
      continue;
    }
#if TILEVAULT_NN_LANES == 16
    if (vectors == 3) w = dense_group<3>(layer, rows, x, v * kLanes, w);
    if (vectors == 2) w = dense_group<2>(layer, rows, x, v * kLanes, w);
    if (vectors == 1) w = dense_group<1>(layer, rows, x, v * kLanes, w);
#endif
  }
}

inline void dense(const Packed& layer, const Rows& rows) { dense_from(layer, rows, 0); }

// Pairs are (row, next row); the last row of an odd number has weight 0 beside it. Weights by block, column of
// the kernel, pair of rows, half of the block.
template <size_t size, size_t pixels>
TILEVAULT_NN_INLINE void depthwise_block(const Packed& layer, const Rows& rows, size_t x, size_t first, const int16_t* w) {
  constexpr size_t kPairs = (size + 1) / 2, kRadius = size / 2;
  Vector sums[pixels][2];
  for (size_t i = 0; i < pixels; ++i)
    for (size_t h = 0; h < 2; ++h) sums[i][h] = load(layer.bias.data() + first + h * kLanes);
#pragma GCC unroll 16
  for (size_t column = 0; column < pixels + size - 1; ++column) {
    const ptrdiff_t at = (static_cast<ptrdiff_t>(x + column) - static_cast<ptrdiff_t>(kRadius)) * static_cast<ptrdiff_t>(rows.in_pixel) +
                         static_cast<ptrdiff_t>(first);
#pragma GCC unroll 3
    for (size_t p = 0; p < kPairs; ++p) {
      const Vector above = load(rows.in[2 * p] + at), below = load(rows.in[2 * p + 1 < size ? 2 * p + 1 : 2 * p] + at);
      const Vector low = low_pairs(above, below), high = high_pairs(above, below);
#pragma GCC unroll 16
      for (size_t i = 0; i < pixels; ++i) {
        if (column < i || column - i >= size) continue;
        const int16_t* weights = w + ((column - i) * kPairs + p) * 2 * kBlock;
        sums[i][0] = dot(sums[i][0], low, load(weights));
        sums[i][1] = dot(sums[i][1], high, load(weights + kBlock));
      }
    }
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < pixels; ++i) {
    int16_t* out = rows.out + (x + i) * rows.out_pixel + first;
    const Vector v = clamp(pack(shifted(sums[i][0], load(layer.shift.data() + first)),
                                shifted(sums[i][1], load(layer.shift.data() + first + kLanes))),
                           load(layer.low.data() + first), load(layer.high.data() + first));
    if (rows.out_pixel - first >= kBlock) {
      store(out, v);
    } else {
      store_half(out, v);
    }
  }
}

template <size_t size>
TILEVAULT_NN_INLINE void depthwise_sized(const Packed& layer, const Rows& rows) {
  constexpr size_t kPixels = 4;
  const size_t channels = padded(layer.out), weights = size * ((size + 1) / 2) * 2 * kBlock;
  for (size_t first = 0; first < channels; first += kBlock) {
    const int16_t* w = layer.weights.data() + first / kBlock * weights;
    size_t x = 0;
    for (; x + kPixels <= rows.width; x += kPixels) depthwise_block<size, kPixels>(layer, rows, x, first, w);
    for (; x < rows.width; ++x) depthwise_block<size, 1>(layer, rows, x, first, w);
  }
}

inline void depthwise(const Packed& layer, const Rows& rows) {
  if (layer.size == 3) {
    depthwise_sized<3>(layer, rows);
  } else {
    depthwise_sized<5>(layer, rows);
  }
}

inline void add(const Packed& layer, const Rows& rows, size_t n) {
  for (size_t x = 0; x < rows.width; ++x) {
    const int16_t *a = rows.in[0] + x * rows.in_pixel, *b = rows.in[1] + x * rows.in_pixel;
    int16_t* out = rows.out + x * rows.out_pixel;
    for (size_t c = 0; c < n; c += kBlock) {
      const Vector v = clamp(sum16(load(a + c), load(b + c)), load(layer.low.data() + c), load(layer.high.data() + c));
      if (n - c >= kBlock) {
        store(out + c, v);
      } else {
        store_half(out + c, v);
      }
    }
  }
}

#undef TILEVAULT_NN_INLINE

}  // namespace tilevault::nn::TILEVAULT_NN_PATH
