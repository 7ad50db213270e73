// The frame of one encoded tile: what it is, how large, and by which transform it is coded.
// docs/format.md section 2 is the specification; this file and the headers below it are all of it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "encoder.hpp"
#include "palette.hpp"

namespace tilevault {

enum Transform : uint8_t { kRaw = 0, kConstant = 1, kZstd = 2, kWavelet53 = 3 };
constexpr unsigned kMinRank = 2, kMaxRank = 5;

struct Shape {
  unsigned rank = 0;
  std::array<size_t, kMaxRank> extent{};
  size_t samples() const {
    size_t n = 1;
    for (unsigned i = 0; i < rank; ++i) n *= extent[i];
    return n;
  }
  size_t height() const { return extent[rank - 2]; }
  size_t width() const { return extent[rank - 1]; }
  size_t planes() const { return samples() / (height() * width()); }
};

struct Header {
  Transform transform = kRaw;
  Shape shape;
  // The rest is of kWavelet53 only.
  unsigned levels = 0;
  bool packed = false, colour = false;
  unsigned colour_axis = 0;
  uint32_t base = 0;
};

namespace frame {

inline void put_varint(std::vector<uint8_t>& out, uint64_t v) {
  for (; v >= 128; v >>= 7) out.push_back(static_cast<uint8_t>(v | 128));
  out.push_back(static_cast<uint8_t>(v));
}

inline uint8_t take_byte(Bytes& in) {
  if (in.size == 0) throw Corrupt("the frame ends in its header");
  --in.size;
  return *in.data++;
}

// At most 32 bits, the shortest form only.
inline uint32_t take_varint(Bytes& in) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 35; shift += 7) {
    const uint8_t b = take_byte(in);
    v |= uint64_t{b & 127u} << shift;
    if ((b & 128) == 0) {
      if ((b == 0 && shift != 0) || v > 0xFFFFFFFFu) break;
      return static_cast<uint32_t>(v);
    }
  }
  throw Corrupt("a number in the header is out of range");
}

inline void put_prefix(std::vector<uint8_t>& out, Transform transform, Type type, const Shape& shape) {
  out.push_back(transform);
  out.push_back(static_cast<uint8_t>(shape.rank | static_cast<unsigned>(type) << 3));
  for (unsigned i = 0; i < shape.rank; ++i) put_varint(out, shape.extent[i]);
}

// limit: the chunk's shape; no extent may be larger, and its product is known to fit. levels: the codec's.
inline Header take_header(Bytes& in, Type type, const Shape& limit, unsigned levels) {
  Header h;
  const uint8_t transform = take_byte(in), kind = take_byte(in);
  if (transform != kRaw && transform != kConstant && transform != kWavelet53)
    throw Corrupt("the frame names a transform that is not known for this type");
  h.transform = static_cast<Transform>(transform);
  if ((kind & 7u) != limit.rank) throw Corrupt("the frame's rank is not the chunk's");
  if (kind >> 3 != static_cast<unsigned>(type)) throw Corrupt("the frame's type is not the chunk's");
  h.shape.rank = limit.rank;
  for (unsigned i = 0; i < limit.rank; ++i) {
    h.shape.extent[i] = take_varint(in);
    if (h.shape.extent[i] == 0 || h.shape.extent[i] > limit.extent[i])
      throw Corrupt("an extent of the frame is larger than the chunk's, or zero");
  }
  if (h.transform != kWavelet53) return h;
  const uint8_t flags = take_byte(in);
  h.levels = flags & 15u;
  h.packed = (flags & 16u) != 0;
  h.colour = (flags & 32u) != 0;
  h.colour_axis = flags >> 6;
  if (h.levels != useful_levels(h.shape.height(), h.shape.width(), levels))
    throw Corrupt("the frame has another number of decompositions than the codec");
  if (!h.colour && h.colour_axis != 0) throw Corrupt("an unused field of the frame is not zero");
  if (h.colour && (h.colour_axis + 2 >= h.shape.rank || h.shape.extent[h.colour_axis] < 3))
    throw Corrupt("the frame's colour axis has fewer than three samples");
  if (size_of(type) == 4 && !h.packed)
    for (unsigned i = 0; i < 4; ++i) h.base |= static_cast<uint32_t>(take_byte(in)) << (8 * i);
  return h;
}

}  // namespace frame

// YCoCg-R (Malvar and Sullivan 2003) on the coefficients of planes R, G, B, so that every resolution
// comes out as if there had been no colour transform.
struct Colour {
  static void forward(int32_t& r, int32_t& g, int32_t& b) {
    using namespace lifting;
    const int32_t co = sub(r, b), t = add(b, co >> 1), cg = sub(g, t);
    r = add(t, cg >> 1);
    g = co;
    b = cg;
  }
  static void inverse(int32_t& y, int32_t& co, int32_t& cg) {
    using namespace lifting;
    const int32_t t = sub(y, cg >> 1), g = add(cg, t), b = sub(t, co >> 1);
    y = add(b, co);
    co = g;
    cg = b;
  }

  // step(r, g, b) on every coefficient of the first `segments` segments.
  template <class Step>
  static void apply(const Subbands& tile, const Shape& shape, unsigned axis, unsigned segments, int32_t* c, Step step) {
    size_t inner = 1;
    for (unsigned i = axis + 1; i + 2 < shape.rank; ++i) inner *= shape.extent[i];
    const size_t outer = tile.planes / (inner * shape.extent[axis]);
    for (unsigned s = 0; s < segments; ++s) {
      const size_t size = (tile.prefix(s + 1) - tile.prefix(s)) / tile.planes;
      for (size_t o = 0; o < outer; ++o)
        for (size_t i = 0; i < inner; ++i) {
          int32_t* p = c + tile.prefix(s) + (o * shape.extent[axis] * inner + i) * size;
          int32_t *q = p + inner * size, *r = q + inner * size;
          for (size_t x = 0; x < size; ++x) step(p[x], q[x], r[x]);
        }
    }
  }
};

// What one thread keeps between tiles, so that nothing is allocated per tile once it has grown.
struct Workspace {
  std::vector<int32_t> words, coefficients, low, scratch;
  std::vector<uint32_t> keys, ranks;
  Packing packing;
  CoefficientEncoder encoder;
  CoefficientDecoder decoder;

  static Workspace& mine() {
    static thread_local Workspace w;
    return w;
  }

  // A thread that met one huge tile does not hold its memory for ever.
  static void give_back() {
    constexpr size_t kKept = size_t{16} << 20;
    if (mine().coefficients.capacity() > kKept || mine().words.capacity() > kKept) mine() = Workspace{};
  }
};

class TileEncoder {
 public:
  // samples: shape.samples() of type, little-endian, C order, contiguous.
  static void encode(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, bool pack, std::vector<uint8_t>& out) {
    out.clear();
    const size_t size = size_of(type), n = shape.samples();
    if (std::memcmp(samples, samples + size, (n - 1) * size) == 0) {
      frame::put_prefix(out, kConstant, type, shape);
      out.insert(out.end(), samples, samples + size);
      return;
    }
    encode_wavelet(samples, type, shape, levels, pack, out);
    if (out.size() < n * size) return;
    out.clear();
    frame::put_prefix(out, kRaw, type, shape);
    out.insert(out.end(), samples, samples + n * size);
  }

 private:
  static void encode_wavelet(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, bool pack, std::vector<uint8_t>& out) {
    Workspace& ws = Workspace::mine();
    const size_t n = shape.samples();
    const Subbands tile{shape.planes(), shape.height(), shape.width(), useful_levels(shape.height(), shape.width(), levels)};
    ws.words.resize(n);
    const bool packed = pack && ws.packing.decide(type, samples, n, ws.keys);
    uint32_t base = 0;
    if (packed) {
      load_ranks(type, samples, n, ws);
    } else {
      BaseOf middle(type);
      middle.add(samples, n);
      base = middle.base();
      load_words(type, samples, n, base, ws.words.data());
    }
    run([&] { transform(tile, ws); });
    const int axis = colour_axis(tile, shape, ws.coefficients.data());
    if (axis >= 0) Colour::apply(tile, shape, static_cast<unsigned>(axis), tile.levels + 1, ws.coefficients.data(), Colour::forward);
    CoefficientEncoder::predict_ll(tile, ws.coefficients.data());

    frame::put_prefix(out, kWavelet53, type, shape);
    out.push_back(static_cast<uint8_t>(tile.levels | unsigned{packed} << 4 | unsigned{axis >= 0} << 5 |
                                       static_cast<unsigned>(std::max(axis, 0)) << 6));
    if (packed) {
      write_palette(ws.keys, out);
    } else if (size_of(type) == 4) {
      for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(base >> (8 * i)));
    }
    static thread_local std::vector<uint8_t> body;
    static thread_local std::vector<size_t> ends;
    body.clear();
    ends.clear();
    ws.encoder.encode(tile, ws.coefficients.data(), body, ends);
    size_t begin = 0;
    for (unsigned s = 0; s < tile.levels; ++s) {
      frame::put_varint(out, ends[s] - begin);
      begin = ends[s];
    }
    out.insert(out.end(), body.begin(), body.end());
  }

  static void load_ranks(Type type, const uint8_t* samples, size_t n, Workspace& ws) {
    const size_t size = size_of(type);
    if (size < 4) {
      ws.ranks.assign(65536, 0);
      for (size_t i = 0; i < ws.keys.size(); ++i) ws.ranks[ws.keys[i]] = static_cast<uint32_t>(i);
      for (size_t i = 0; i < n; ++i) ws.words[i] = static_cast<int32_t>(ws.ranks[palette_key(type, samples + i * size)]);
      return;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint32_t key = palette_key(type, samples + i * size);
      ws.words[i] = static_cast<int32_t>(std::lower_bound(ws.keys.begin(), ws.keys.end(), key) - ws.keys.begin());
    }
  }

  static void transform(const Subbands& tile, Workspace& ws) {
    ws.coefficients.resize(tile.prefix(tile.levels + 1));
    ws.low.resize(2 * tile.plane_size(1));
    ws.scratch.resize(6 * tile.width + 1);
    int32_t* c = ws.coefficients.data();
    for (size_t p = 0; p < tile.planes; ++p) {
      const int32_t* from = ws.words.data() + p * tile.height * tile.width;
      if (tile.levels == 0) std::copy_n(from, tile.height * tile.width, c + tile.band(0, p, kLL).offset);
      for (unsigned k = 1; k <= tile.levels; ++k) {
        const size_t h = tile.height_at(k - 1), w = tile.width_at(k - 1);
        int32_t* low = k == tile.levels ? c + tile.band(k, p, kLL).offset : ws.low.data() + (k & 1) * tile.plane_size(1);
        auto rows = [&](Kind kind) {
          const Band b = tile.band(k, p, kind);
          return Rows{c + b.offset, b.width};
        };
        analyse(h, w, [&](size_t y, int32_t* row) { std::copy_n(from + y * w, w, row); }, Rows{low, low_size(w)},
                rows(kHL), rows(kLH), rows(kHH), ws.scratch.data());
        from = low;
      }
    }
  }

  // The leading axis of three or four samples on whose first three YCoCg-R makes the finest segment
  // smallest, by the sum of bit lengths; -1 if none saves 2 %.
  static int colour_axis(const Subbands& tile, const Shape& shape, const int32_t* c) {
    int best = -1;
    uint64_t most = 0;
    for (unsigned axis = 0; axis + 2 < shape.rank; ++axis) {
      if (shape.extent[axis] != 3 && shape.extent[axis] != 4) continue;
      uint64_t before = 0, after = 0;
      auto length = [](int32_t v) { return 32u - static_cast<unsigned>(__builtin_clz(zigzag(v) | 1u)); };
      Colour::apply(tile, shape, axis, tile.levels + 1, const_cast<int32_t*>(c), [&](const int32_t& r, const int32_t& g, const int32_t& b) {
        int32_t x = r, y = g, z = b;
        before += length(x) + length(y) + length(z);
        Colour::forward(x, y, z);
        after += length(x) + length(y) + length(z);
      });
      if (after < before - before / 50 && before - after > most) {
        most = before - after;
        best = static_cast<int>(axis);
      }
    }
    return best;
  }
};

class TileDecoder {
 public:
  // Writes the tile at `reduce` into out: chunk.extent with the last two axes reduced, C order; the part
  // beyond the frame's own extents is left as it is. data may end after the segment that reduce needs.
  static void decode(Bytes data, Type type, const Shape& chunk, unsigned reduce, unsigned levels, uint8_t* out) {
    Bytes in = data;
    const Header h = frame::take_header(in, type, chunk, levels);
    const Target target{out, size_of(type), chunk, h.shape, reduce};
    if (h.transform == kConstant) return decode_constant(in, target);
    if (h.transform == kRaw) return decode_raw(in, type, h, target);
    decode_wavelet(in, type, h, reduce, target);
  }

  // End offsets of the segments, coarsest first: levels + 1 for a wavelet tile that any prefix serves, else
  // none (all of it is needed at every resolution).
  static void segment_ends(Bytes data, Type type, unsigned levels, std::vector<size_t>& ends) {
    Bytes in = data;
    ends.clear();
    if (in.size < 2) throw Corrupt("the frame ends in its header");
    Shape any;
    any.rank = in.data[1] & 7u;
    if (any.rank < kMinRank || any.rank > kMaxRank) throw Corrupt("the frame's rank is out of range");
    any.extent.fill(0xFFFFFFFFu);
    const Header h = frame::take_header(in, type, any, levels);
    if (h.transform != kWavelet53 || h.packed) return;
    std::vector<size_t> lengths;
    for (unsigned s = 0; s < h.levels; ++s) lengths.push_back(frame::take_varint(in));
    size_t at = data.size - in.size;
    for (size_t length : lengths) {
      if (length > data.size - at) throw Corrupt("a segment ends behind the frame");
      at += length;
      ends.push_back(at);
    }
    ends.push_back(data.size);
  }

 private:
  struct Target {
    uint8_t* out;
    size_t size;
    Shape chunk, valid;
    unsigned reduce;

    size_t reduced(size_t n) const { return ((n - 1) >> reduce) + 1; }
    size_t height() const { return reduced(valid.height()); }
    size_t width() const { return reduced(valid.width()); }
    // Row y of valid plane p, both at the reduced size.
    uint8_t* row(size_t p, size_t y) const {
      size_t index = 0, unit = 1;
      for (unsigned i = chunk.rank - 2; i-- > 0;) {
        index += p % valid.extent[i] * unit;
        p /= valid.extent[i];
        unit *= chunk.extent[i];
      }
      return out + ((index * reduced(chunk.height()) + y) * reduced(chunk.width())) * size;
    }
  };

  static void decode_constant(Bytes in, const Target& t) {
    if (in.size != t.size) throw Corrupt("a constant tile is not one sample long");
    const size_t planes = t.valid.planes();
    for (size_t p = 0; p < planes; ++p)
      for (size_t y = 0; y < t.height(); ++y) {
        uint8_t* row = t.row(p, y);
        for (size_t x = 0; x < t.width(); ++x) std::memcpy(row + x * t.size, in.data, t.size);
      }
  }

  static void decode_raw(Bytes in, Type type, const Header& h, const Target& t) {
    const size_t n = h.shape.samples(), width = h.shape.width(), height = h.shape.height(), planes = h.shape.planes();
    if (in.size != n * t.size) throw Corrupt("a raw tile has another length than its samples");
    if (t.reduce == 0) {
      for (size_t p = 0; p < planes; ++p)
        for (size_t y = 0; y < height; ++y)
          std::memcpy(t.row(p, y), in.data + (p * height + y) * width * t.size, width * t.size);
      return;
    }
    BaseOf middle(type);
    middle.add(in.data, n);
    const uint32_t base = middle.base();
    Workspace& ws = Workspace::mine();
    ws.scratch.resize(6 * width + 1);
    for (size_t p = 0; p < planes; ++p) {
      ws.words.resize(height * width);
      load_words(type, in.data + p * height * width * t.size, height * width, base, ws.words.data());
      reduce_plane(ws, height, width, t.reduce);
      for (size_t y = 0; y < t.height(); ++y) store_words(type, ws.words.data() + y * t.width(), t.width(), base, false, t.row(p, y));
    }
  }

  // ws.words to its own LL of `reduce` decompositions, in place: row i of LL is written after row 2i was read.
  static void reduce_plane(Workspace& ws, size_t height, size_t width, unsigned reduce) {
    std::vector<int32_t>& high = ws.low;
    high.resize(width);  // the high bands are not wanted: all their rows go here
    int32_t* words = ws.words.data();
    for (unsigned k = 0; k < reduce; ++k) {
      const size_t w = width;
      const Rows nowhere{high.data(), 0};
      analyse(height, w, [&](size_t y, int32_t* row) { std::copy_n(words + y * w, w, row); },
              Rows{words, low_size(w)}, nowhere, nowhere, nowhere, ws.scratch.data());
      height = low_size(height);
      width = low_size(w);
    }
  }

  static void decode_wavelet(Bytes in, Type type, const Header& h, unsigned reduce, const Target& t) {
    Workspace& ws = Workspace::mine();
    const Subbands tile{h.shape.planes(), h.shape.height(), h.shape.width(), h.levels};
    if (h.packed) read_palette(type, h.shape.samples(), in, ws.keys);
    const unsigned skipped = h.packed ? 0 : std::min(reduce, h.levels);
    std::vector<Bytes> segments;
    take_segments(in, h.levels, h.levels + 1 - skipped, segments);
    ws.coefficients.resize(tile.prefix(h.levels + 1 - skipped));
    int32_t* c = ws.coefficients.data();
    ws.decoder.decode(tile, segments, c);
    CoefficientDecoder::restore_ll(tile, c);
    if (h.colour) Colour::apply(tile, h.shape, h.colour_axis, h.levels + 1 - skipped, c, Colour::inverse);
    ws.scratch.resize(6 * tile.width + 1);
    ws.low.resize(2 * tile.plane_size(skipped + 1 > h.levels ? h.levels : skipped + 1));
    bool inside = true;
    for (size_t p = 0; p < tile.planes; ++p) {
      auto sink = [&](size_t y, const int32_t* row) {
        if (h.packed) {
          inside &= store_values(type, row, tile.width, ws.keys, t, p, y);
        } else {
          inside &= store_words(type, row, tile.width_at(skipped), h.base, reduce == 0, t.row(p, y));
        }
      };
      run([&] { synthesise_plane(tile, p, skipped, ws, sink); });
    }
    if (!inside && (reduce == 0 || h.packed)) throw Corrupt("a sample is outside the range of its type");
  }

  static void take_segments(Bytes in, unsigned levels, unsigned needed, std::vector<Bytes>& segments) {
    std::array<size_t, kMaxLevels> lengths{};
    for (unsigned s = 0; s < levels; ++s) lengths[s] = frame::take_varint(in);
    for (unsigned s = 0; s < needed; ++s) {
      const size_t length = s == levels ? in.size : lengths[s];
      if (length > in.size) throw Corrupt("the frame ends before the segments that are needed");
      segments.push_back({in.data, length});
      in = {in.data + length, in.size - length};
    }
  }

  template <class Sink>
  static void synthesise_plane(const Subbands& tile, size_t p, unsigned skipped, Workspace& ws, Sink&& sink) {
    int32_t* c = ws.coefficients.data();
    int32_t* low = c + tile.band(tile.levels, p, kLL).offset;
    if (skipped == tile.levels) {
      const size_t w = tile.width_at(skipped);
      for (size_t y = 0; y < tile.height_at(skipped); ++y) sink(y, low + y * w);
      return;
    }
    for (unsigned k = tile.levels; k > skipped; --k) {
      const size_t h = tile.height_at(k - 1), w = tile.width_at(k - 1);
      auto rows = [&](Kind kind) {
        const Band b = tile.band(k, p, kind);
        return Rows{c + b.offset, b.width};
      };
      const Rows ll{low, low_size(w)};
      if (k == skipped + 1) {
        synthesise(h, w, ll, rows(kHL), rows(kLH), rows(kHH), sink, ws.scratch.data());
        return;
      }
      int32_t* next = ws.low.data() + (k & 1) * (ws.low.size() / 2);
      synthesise(h, w, ll, rows(kHL), rows(kLH), rows(kHH),
                 [&](size_t y, const int32_t* row) { std::copy_n(row, w, next + y * w); }, ws.scratch.data());
      low = next;
    }
  }

  // A row of ranks as values; at a reduced size the even positions of every 2^reduce-th row.
  static bool store_values(Type type, const int32_t* row, size_t width, const std::vector<uint32_t>& keys, const Target& t, size_t p, size_t y) {
    bool inside = true;
    const size_t n = keys.size();
    for (size_t x = 0; x < width; ++x) inside &= static_cast<uint32_t>(row[x]) < n;
    if (!inside || (y & ((size_t{1} << t.reduce) - 1)) != 0) return inside;
    uint8_t* out = t.row(p, y >> t.reduce);
    for (size_t x = 0; x < t.width(); ++x) palette_store(type, keys[static_cast<size_t>(row[x << t.reduce])], out + x * t.size);
    return true;
  }
};

}  // namespace tilevault
