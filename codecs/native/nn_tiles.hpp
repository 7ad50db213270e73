// Dense layers with 8-bit weights by matrix tiles (AMX): 16 pixels by 16 channels of sums at a time.
//
// Activations stay int16. Their rows are taken apart into bytes, a = low + 256 high with both signed, and multiplied
// one after the other: sum = low + 256 high. Where a layer's input fits one byte, one product does. The bytes of a
// pixel begin at a multiple of 64: rows of tiles that cross cache lines are four times as slow to load.
// Included by nn_paths.hpp, which sets the target.

namespace tilevault::nn::amx {

constexpr size_t kPixels = 16;  // rows of a tile
constexpr size_t kTile = 1024;  // bytes

struct alignas(64) Shape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void begin() {
  static const Shape shape;  // in memory: gcc 12 does not see that all of it is read
  _tile_loadconfig(&shape);
}
inline void end() { _tile_release(); }

// How a layer's input becomes sums.
enum class Bytes { both, low, low_signed };

// What the rows of a kernel are taken apart into.
struct Bytewise {
  Line<int8_t> low[5], high[5];
};

// Of n pixels, each with what fills whole vectors of bytes.
template <bool both>
inline void split(const int16_t* from, size_t n, size_t pixel, int8_t* low, int8_t* high) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), mask = _mm512_set1_epi16(0xFF), half = _mm512_set1_epi16(128);
  for (size_t x = 0; x < n; ++x, from += pixel)
    for (size_t c = 0; c < pixel; c += 64, low += 64, high += both ? 64 : 0) {
      const __m512i a = _mm512_loadu_si512(from + c), b = _mm512_loadu_si512(from + c + 32);
      _mm512_store_si512(low, _mm512_permutexvar_epi64(order, _mm512_packus_epi16(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask))));
      if (!both) continue;
      const __m512i d = _mm512_srai_epi16(_mm512_add_epi16(a, half), 8), e = _mm512_srai_epi16(_mm512_add_epi16(b, half), 8);
      _mm512_store_si512(high, _mm512_permutexvar_epi64(order, _mm512_packs_epi16(d, e)));
    }
}

// The tiles of the first and of the second vector of channels. Their numbers are part of the instructions; gcc spells
// them as they stand here.
template <size_t v>
struct Tiles;
#define TILEVAULT_NN_TILES_OF(v, low, high, input, weights)                                                      \
  template <>                                                                                                    \
  struct Tiles<v> {                                                                                              \
    static void begin(const int32_t* bias) { _tile_loadd(low, bias, 0); }                                        \
    static void begin_high() { _tile_zero(high); }                                                               \
    static void load(const int8_t* in, size_t pixel) { _tile_loadd(input, in, static_cast<long>(pixel)); }       \
    static void load_weights(const int8_t* w) { _tile_loadd(weights, w, 64); }                                   \
    static void add_unsigned() { _tile_dpbusd(low, input, weights); }                                            \
    static void add() { _tile_dpbssd(low, input, weights); }                                                     \
    static void add_high() { _tile_dpbssd(high, input, weights); }                                               \
    static void store(void* to) { _tile_stored(low, to, 64); }                                                   \
    static void store_high(void* to) { _tile_stored(high, to, 64); }                                             \
  };
TILEVAULT_NN_TILES_OF(0, 0, 2, 4, 5)
TILEVAULT_NN_TILES_OF(1, 1, 3, 6, 7)
#undef TILEVAULT_NN_TILES_OF

// Two tiles of sums of low bytes, then two of high ones.
using Sums = int32_t[4][kPixels][16];

// Vectors of channels, from `first` on, of all pixels up to `end`: wide, two vectors of sixteen pixels at a time, else
// one vector of 32 pixels, so that two tiles are always summed up side by side. While they are, vectors finish those before.
template <Bytes bytes, bool wide>
class Group {
 public:
  Group(const Packed& layer, const Bytewise& in, const Rows& rows, size_t first, const int8_t* weights)
      : layer_(layer), in_(in), rows_(rows), first_(first), weights_(weights) {}

  // end: a multiple of 16, at least 32.
  void run(size_t end) const {
    constexpr size_t kStep = wide ? kPixels : 2 * kPixels;
    alignas(64) Sums sums;
    size_t x = 0;
    multiply<0>(x);
    multiply<1>(x);
    for (;;) {
      const size_t next = std::min(x + kStep, end - kStep);  // the last may begin within those before
      store<0>(sums);
      if (next > x) multiply<0>(next);
      store<1>(sums);
      if (next > x) multiply<1>(next);
      finish(x, sums);
      if (next <= x) return;
      x = next;
    }
  }

 private:
  template <size_t v>
  __attribute__((always_inline)) inline void multiply(size_t x) const {
    using T = Tiles<v>;
    const size_t pixel = (rows_.in_pixel + 63) / 64 * 64, row = layer_.size * pixel;
    const size_t at = (wide ? x : x + v * kPixels) * pixel;
    const int8_t* w = weights_ + (wide ? v * 16 * layer_.size * row : 0);
    T::begin(layer_.bias.data() + first_ + (wide ? 16 * v : 0));
    if (bytes == Bytes::both) T::begin_high();
    for (size_t ky = 0; ky < layer_.size; ++ky) {
      const int8_t *low = in_.low[ky].data() + at, *high = bytes == Bytes::both ? in_.high[ky].data() + at : nullptr;
      for (size_t k = 0; k < row; k += 64, w += kTile) {
        T::load(low + k, pixel);
        T::load_weights(w);
        bytes == Bytes::low ? T::add_unsigned() : T::add();
        if (bytes != Bytes::both) continue;
        T::load(high + k, pixel);
        T::add_high();
      }
    }
  }

  template <size_t v>
  __attribute__((always_inline)) static inline void store(Sums& sums) {
    Tiles<v>::store(sums[v]);
    if (bytes == Bytes::both) Tiles<v>::store_high(sums[2 + v]);
  }

  // As vnni::finish and vnni::finish_half, the layer's numbers loaded once.
  __attribute__((always_inline)) inline void finish(size_t x, const Sums& sums) const {
    const __m512i up = _mm512_set4_epi32(0x0E0D0C80, 0x0A090880, 0x06050480, 0x02010080);  // bytes, one place up
    const auto sum = [&](size_t i, size_t v) {
      const __m512i low = _mm512_load_si512(sums[v][i]);
      return bytes == Bytes::both ? _mm512_add_epi32(low, _mm512_shuffle_epi8(_mm512_load_si512(sums[2 + v][i]), up)) : low;
    };
    const __m512i shift = _mm512_loadu_si512(layer_.shift.data() + first_);
    int16_t* out = rows_.out + x * rows_.out_pixel + first_;
    if (wide) {
      const __m512i second = _mm512_loadu_si512(layer_.shift.data() + first_ + 16);
      const __m512i low = _mm512_loadu_si512(layer_.low.data() + first_), high = _mm512_loadu_si512(layer_.high.data() + first_);
#pragma GCC unroll 16
      for (size_t i = 0; i < kPixels; ++i, out += rows_.out_pixel) {
        const __m512i v = _mm512_packs_epi32(_mm512_srav_epi32(sum(i, 0), shift), _mm512_srav_epi32(sum(i, 1), second));
        _mm512_storeu_si512(out, _mm512_min_epi16(_mm512_max_epi16(v, low), high));
      }
    } else {
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer_.low.data() + first_));
      const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer_.high.data() + first_));
      for (size_t half = 0; half < 2; ++half)
#pragma GCC unroll 16
        for (size_t i = 0; i < kPixels; ++i, out += rows_.out_pixel) {
          const __m256i v = _mm512_cvtsepi32_epi16(_mm512_srav_epi32(sum(i, half), shift));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_min_epi16(_mm256_max_epi16(v, low), high));
        }
    }
  }

  const Packed& layer_;
  const Bytewise& in_;
  const Rows& rows_;
  size_t first_;
  const int8_t* weights_;
};

// Pixels up to `end`, sixteen at a time.
template <Bytes bytes>
inline void dense_bytes(const Packed& layer, const Rows& rows, size_t end) {
  static thread_local Bytewise in;
  const size_t radius = layer.size / 2, n = end + 2 * radius, length = n * ((rows.in_pixel + 63) / 64 * 64);
  for (size_t ky = 0; ky < layer.size; ++ky) {
    if (in.low[ky].size() < length) in.low[ky].resize(length);
    if (bytes == Bytes::both && in.high[ky].size() < length) in.high[ky].resize(length);
    split<bytes == Bytes::both>(rows.in[ky] - radius * rows.in_pixel, n, rows.in_pixel, in.low[ky].data(), in.high[ky].data());
  }
  const size_t all = padded(layer.out), each = layer.size * layer.size * ((rows.in_pixel + 63) / 64 * 64);  // weights of a channel
  for (size_t first = 0; first < all; first += 32) {
    const int8_t* w = layer.tiles.data() + first * each;
    if (first + 32 <= all) {
      Group<bytes, true>(layer, in, rows, first, w).run(end);
    } else {
      Group<bytes, false>(layer, in, rows, first, w).run(end);
    }
  }
}

// Sixteen pixels at a time, at most half of them beyond the row; what is left, and short rows, go the other way.
inline void dense(const Packed& layer, const Rows& rows) {
  const size_t end = layer.tiles.empty() ? 0 : (rows.width + kPixels / 2) / kPixels * kPixels;
  if (end < 2 * kPixels) return vnni::dense(layer, rows);
  if (!layer.in_bytes) {
    dense_bytes<Bytes::both>(layer, rows, end);
  } else if (layer.in_signed) {
    dense_bytes<Bytes::low_signed>(layer, rows, end);
  } else {
    dense_bytes<Bytes::low>(layer, rows, end);
  }
  if (end < rows.width) vnni::dense_from(layer, rows, end);
}

}  // namespace tilevault::nn::amx
