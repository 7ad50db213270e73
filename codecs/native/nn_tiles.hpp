// Dense layers with 8-bit weights by matrix tiles (AMX): 16 pixels by 16 channels of sums at a time.
//
// Activations stay int16. Their rows are read as bytes, low, high, low, high ..., and multiplied twice: by the
// weights beside the low bytes (unsigned) and by the weights beside the high bytes (signed), 0 elsewhere;
// sum = low + 256 * high. Where a layer's input fits one byte, its low bytes say all, and one product does.
// Included by nn_paths.hpp, which sets the target.

namespace tilevault::nn::amx {

constexpr size_t kPixels = 16;   // rows of a tile
constexpr size_t kChannels = 32;  // int16 in a row of a tile
constexpr size_t kTile = 1024;   // bytes

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

template <Bytes bytes>
__attribute__((always_inline)) inline void multiply(size_t tile, const int8_t* w) {
  // Tile numbers are part of the instruction; gcc spells them as they stand here.
#define TILEVAULT_NN_MULTIPLY(n, even, weights)                         \
  if (tile == n) {                                                      \
    _tile_loadd(weights, w, 64);                                        \
    if (bytes == Bytes::low || (bytes == Bytes::both && even)) {        \
      _tile_dpbusd(n, 4, weights);                                      \
    } else {                                                            \
      _tile_dpbssd(n, 4, weights);                                      \
    }                                                                   \
  }
  TILEVAULT_NN_MULTIPLY(0, true, 5)
  TILEVAULT_NN_MULTIPLY(1, false, 6)
  TILEVAULT_NN_MULTIPLY(2, true, 5)
  TILEVAULT_NN_MULTIPLY(3, false, 6)
#undef TILEVAULT_NN_MULTIPLY
}

// Four tiles of sums: of four vectors of channels, or of two, low and high bytes.
template <Bytes bytes, size_t tiles>
__attribute__((always_inline)) inline const int8_t* dense_block(const Packed& layer, const Rows& rows, size_t x, size_t first, const int8_t* w) {
  _tile_zero(0);
  if (tiles > 1) _tile_zero(1);
  if (tiles > 2) _tile_zero(2);
  if (tiles > 3) _tile_zero(3);
  const ptrdiff_t radius = static_cast<ptrdiff_t>(layer.size / 2);
  for (size_t ky = 0; ky < layer.size; ++ky) {
    for (size_t kx = 0; kx < layer.size; ++kx) {
      const int16_t* a = rows.in[ky] + (static_cast<ptrdiff_t>(x + kx) - radius) * static_cast<ptrdiff_t>(rows.in_pixel);
      for (size_t c = 0; c < layer.in; c += kChannels) {
        _tile_loadd(4, a + c, static_cast<long>(2 * rows.in_pixel));
#pragma GCC unroll 4
        for (size_t t = 0; t < tiles; ++t, w += kTile) multiply<bytes>(t, w);
      }
    }
  }
  alignas(64) int32_t sums[4][kPixels][16];
  _tile_stored(0, sums[0], 64);
  if (tiles > 1) _tile_stored(1, sums[1], 64);
  if (tiles > 2) _tile_stored(2, sums[2], 64);
  if (tiles > 3) _tile_stored(3, sums[3], 64);
  constexpr size_t kVectors = bytes == Bytes::both ? tiles / 2 : tiles;
  for (size_t i = 0; i < kPixels; ++i) {
    __m512i v[kVectors];
#pragma GCC unroll 4
    for (size_t k = 0; k < kVectors; ++k) {
      const __m512i bias = _mm512_load_si512(layer.bias.data() + first + 16 * k);
      if (bytes == Bytes::both) {
        const __m512i high = _mm512_slli_epi32(_mm512_load_si512(sums[2 * k + 1][i]), 8);
        v[k] = _mm512_add_epi32(_mm512_add_epi32(bias, _mm512_load_si512(sums[2 * k][i])), high);
      } else {
        v[k] = _mm512_add_epi32(bias, _mm512_load_si512(sums[k][i]));
      }
    }
    int16_t* out = rows.out + (x + i) * rows.out_pixel;
#pragma GCC unroll 2
    for (size_t k = 0; k + 1 < kVectors; k += 2) vnni::finish(layer, first + 16 * k, v[k], v[k + 1], out);
    if (kVectors % 2 != 0) vnni::finish_half(layer, first + 16 * (kVectors - 1), v[kVectors - 1], out);
  }
  return w;
}

template <Bytes bytes>
__attribute__((always_inline)) inline void dense_bytes(const Packed& layer, const Rows& rows, size_t x) {
  constexpr size_t kEach = bytes == Bytes::both ? 2 : 1, kMost = 4 / kEach;
  const size_t vectors = padded(layer.out) / 16;
  const int8_t* w = layer.tiles.data();
  for (size_t v = 0; v < vectors; v += kMost) {
    const size_t left = vectors - v;
    if (left >= kMost) {
      w = dense_block<bytes, 4>(layer, rows, x, v * 16, w);
    } else if (left * kEach == 3) {
      w = dense_block<bytes, bytes == Bytes::both ? 2 : 3>(layer, rows, x, v * 16, w);
    } else if (left * kEach == 2) {
      w = dense_block<bytes, 2>(layer, rows, x, v * 16, w);
    } else {
      w = dense_block<bytes, bytes == Bytes::both ? 2 : 1>(layer, rows, x, v * 16, w);
    }
  }
}

// Sixteen pixels at a time, of which at most half are beyond the row; what is left goes the other way.
inline void dense(const Packed& layer, const Rows& rows) {
  size_t x = 0;
  if (!layer.tiles.empty()) {
    for (; x + kPixels / 2 <= rows.width; x += kPixels) {
      if (!layer.in_bytes) {
        dense_bytes<Bytes::both>(layer, rows, x);
      } else if (layer.in_signed) {
        dense_bytes<Bytes::low_signed>(layer, rows, x);
      } else {
        dense_bytes<Bytes::low>(layer, rows, x);
      }
    }
  }
  if (x < rows.width) vnni::dense_from(layer, rows, x);
}

}  // namespace tilevault::nn::amx
