// The frame of one encoded tile: what it is, how large, and by which transform it is coded.
// docs/format.md section 2 is the specification; this file and the headers below it are all of it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "clusters.hpp"
#include "planes.hpp"
#include "predictor_encoder.hpp"
#include "resolution.hpp"
#include "transposed.hpp"
#include "word_colour.hpp"

namespace tilevault {

enum Transform : uint8_t { kRaw = 0, kConstant = 1, kZstd = 2, kWavelet53 = 3, kPredictor = 4, kPlanes = 5, kClusters = 6, kWavelet53Transposed = 7 };
enum class Prefer { resolution, size };
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
  // Of a nested frame: this one's leading axes if it holds all planes, else one axis.
  Shape nested(size_t count, size_t rows, size_t columns, bool all) const {
    Shape out;
    if (all) {
      out = *this;
    } else {
      out.rank = 3;
      out.extent[0] = count;
    }
    out.extent[out.rank - 2] = rows;
    out.extent[out.rank - 1] = columns;
    return out;
  }
};

struct Header {
  Transform transform = kRaw;
  Shape shape;
  Order order = Order::plain;  // of a kWavelet53Transposed frame transposed; its transform is kWavelet53 here
  // The rest is of kWavelet53 and kPredictor only.
  unsigned levels = 0;
  bool packed = false, colour = false;
  unsigned colour_axis = 0;
  ColourKind colour_kind;
  uint32_t base = 0;
};

namespace frame {

constexpr unsigned kOtherColour = 3;  // no axis: a byte says the axis, and which colour transform if not kind {}

// Flags; colour: no axis if negative.
inline void put_flags(std::vector<uint8_t>& out, unsigned levels, bool packed, int colour, ColourKind kind) {
  const bool other = colour >= 0 && !(kind == ColourKind{});
  const unsigned axis = static_cast<unsigned>(std::max(colour, 0));
  out.push_back(static_cast<uint8_t>(levels | unsigned{packed} << 4 | unsigned{colour >= 0} << 5 | (other ? kOtherColour : axis) << 6));
  if (other) out.push_back(static_cast<uint8_t>(axis | unsigned{kind.order} << 2 | static_cast<unsigned>(kind.mix) << 5));
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
  if (transform != kRaw && transform != kConstant && transform != kWavelet53 && transform != kPredictor && transform != kPlanes &&
      transform != kClusters && transform != kWavelet53Transposed)
    throw Corrupt("the frame names a transform that is not known for this type");
  h.order = transform == kWavelet53Transposed ? Order::transposed : Order::plain;
  h.transform = transform == kWavelet53Transposed ? kWavelet53 : static_cast<Transform>(transform);
  if ((kind & 7u) != limit.rank) throw Corrupt("the frame's rank is not the chunk's");
  if (kind >> 3 != static_cast<unsigned>(type)) throw Corrupt("the frame's type is not the chunk's");
  h.shape.rank = limit.rank;
  for (unsigned i = 0; i < limit.rank; ++i) {
    h.shape.extent[i] = take_varint(in);
    if (h.shape.extent[i] == 0 || h.shape.extent[i] > limit.extent[i])
      throw Corrupt("an extent of the frame is larger than the chunk's, or zero");
  }
  if (h.transform != kWavelet53 && h.transform != kPredictor) return h;
  const uint8_t flags = take_byte(in);
  h.levels = flags & 15u;
  h.packed = (flags & 16u) != 0;
  h.colour = (flags & 32u) != 0;
  h.colour_axis = flags >> 6;
  if (h.colour && h.colour_axis == kOtherColour) {
    const uint8_t how = take_byte(in);
    h.colour_axis = how & 3u;
    h.colour_kind = {static_cast<uint8_t>(how >> 2 & 7u), static_cast<Mix>(how >> 5)};
    if (h.colour_kind.order >= kOrders.size() || how >> 5 >= kMixes || h.colour_kind == ColourKind{})
      throw Corrupt("the frame names a colour transform that is not known");
  }
  if (h.transform == kPredictor && h.levels != 0) throw Corrupt("an unused field of the frame is not zero");
  if (h.transform == kWavelet53 && h.levels != useful_levels(h.shape.height(), h.shape.width(), levels))
    throw Corrupt("the frame has another number of decompositions than the codec");
  if (!h.colour && h.colour_axis != 0) throw Corrupt("an unused field of the frame is not zero");
  if (h.colour && (h.colour_axis + 2 >= h.shape.rank || h.shape.extent[h.colour_axis] < 3))
    throw Corrupt("the frame's colour axis has fewer than three samples");
  if (size_of(type) == 4 && !h.packed)
    for (unsigned i = 0; i < 4; ++i) h.base |= static_cast<uint32_t>(take_byte(in)) << (8 * i);
  return h;
}

}  // namespace frame

// A colour transform of the first three planes along an axis.
inline Colour colour_along(const Shape& shape, unsigned axis, ColourKind kind = {}) {
  size_t inner = 1;
  for (unsigned i = axis + 1; i + 2 < shape.rank; ++i) inner *= shape.extent[i];
  return Colour(shape.planes(), shape.extent[axis], inner, kind);
}

inline void planes_of(const Shape& shape, std::vector<predictor::Plane>& planes) {
  planes.clear();
  const size_t size = shape.height() * shape.width(), count = shape.planes();
  for (size_t p = 0; p < count; ++p) planes.push_back({shape.height(), shape.width(), p * size, -1});
}

inline Subbands coded_bands(const Shape& shape, unsigned levels, Order order) {
  if (order == Order::plain) return {shape.planes(), shape.height(), shape.width(), levels};
  return {shape.planes(), shape.width(), shape.height(), levels};
}

// What one thread keeps between tiles, so that nothing is allocated per tile once it has grown.
struct Workspace {
  std::vector<int32_t> words, transposed, coefficients, low, scratch;
  Columns columns;
  std::vector<uint32_t> keys, ranks;
  std::vector<uint8_t> body;
  std::vector<size_t> ends;
  PlaneFinder finder;
  WordColour word_colour;
  Packing packing;
  Clusters clusters;
  ResolutionEncoder resolution_encoder;
  ResolutionDecoder resolution_decoder;
  std::vector<predictor::Plane> planes;
  predictor::PredictorEncoder predictor_encoder;
  predictor::PredictorDecoder predictor_decoder;

  static Workspace& mine() {
    static thread_local Workspace w;
    return w;
  }

  // A thread that met one huge tile does not hold its memory for ever, and what was refused leaves none.
  struct Lease {
    size_t samples;
    explicit Lease(size_t n) : samples(n) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      constexpr size_t kKept = size_t{4} << 20;
      if (samples > kKept) mine() = Workspace{};
    }
  };
};

class TileEncoder {
 public:
  // samples: shape.samples() of type, little-endian, C order, contiguous.
  static void encode(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, bool pack, Prefer prefer, Coder coder, std::vector<uint8_t>& out) {
    encode_as(samples, type, shape, levels, pack, prefer, coder, out);
    // Graphics and text: a prefix of the wavelet's frame may be given up (pack says so) where that saves much.
    if (!pack || prefer == Prefer::size || size_of(type) > 1 || out.size() > shape.samples() / 2) return;
    std::vector<uint8_t> other;
    encode_as(samples, type, shape, levels, pack, Prefer::size, coder, other);
    if (10 * other.size() < 9 * out.size()) out = std::move(other);
  }

 private:
  static void encode_as(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, bool pack, Prefer prefer, Coder coder,
                        std::vector<uint8_t>& out) {
    PlaneFinder& finder = Workspace::mine().finder;
    finder.forget();
    if (pack && encode_planes(finder, samples, type, shape, levels, prefer, coder, out)) return;
    encode_whole(samples, type, shape, levels, pack && !finder.dense(), prefer, coder, out);
  }

  // Any frame but that of planes.
  static void encode_whole(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, bool pack, Prefer prefer, Coder coder,
                           std::vector<uint8_t>& out) {
    Loaded loaded = load(samples, type, shape, pack);
    Workspace& ws = Workspace::mine();
    uint32_t gap = 0;
    const size_t n = shape.samples(), size = shape.height() * shape.width();
    const bool clusters = loaded.packed && ws.clusters.find(ws.keys, n, gap);
    std::vector<uint8_t> numbers, places;
    if (clusters && ws.clusters.split(ws.words.data(), shape.planes(), size, numbers, places)) {
      std::vector<uint8_t> nested;
      out.clear();
      frame::put_prefix(out, kClusters, type, shape);
      write_palette(ws.keys, out);
      frame::put_varint(out, gap);
      encode_simple(numbers.data(), Type::u16, shape, levels, prefer, coder, nested);
      frame::put_varint(out, nested.size());
      out.insert(out.end(), nested.begin(), nested.end());
      encode_simple(places.data(), Type::i8, shape, levels, prefer, coder, nested);
      out.insert(out.end(), nested.begin(), nested.end());
      if (out.size() < n * size_of(type)) return;
      loaded = load(samples, type, shape, pack);
    }
    encode_alone(samples, type, shape, levels, loaded, prefer, coder, out);
  }

  static void encode_simple(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, Prefer prefer, Coder coder,
                            std::vector<uint8_t>& out) {
    encode_alone(samples, type, shape, levels, load(samples, type, shape, false), prefer, coder, out);
  }

  // What lies in the workspace's words: ranks among its keys if packed, else words less base.
  struct Loaded {
    bool packed;
    uint32_t base;
  };

  static Loaded load(const uint8_t* samples, Type type, const Shape& shape, bool pack) {
    Workspace& ws = Workspace::mine();
    const size_t n = shape.samples();
    ws.words.resize(n);
    if (pack && ws.packing.decide(type, samples, n, ws.keys)) {
      load_ranks(type, samples, n, ws);
      return {true, 0};
    }
    BaseOf middle(type);
    middle.add(samples, n);
    load_words(type, samples, n, middle.base(), ws.words.data());
    return {false, middle.base()};
  }

  // A frame without nested ones.
  static void encode_alone(const uint8_t* samples, Type type, const Shape& shape, unsigned levels, const Loaded& loaded, Prefer prefer,
                           Coder coder, std::vector<uint8_t>& out) {
    out.clear();
    const size_t size = size_of(type), n = shape.samples();
    if (std::memcmp(samples, samples + size, (n - 1) * size) == 0) {
      frame::put_prefix(out, kConstant, type, shape);
      out.insert(out.end(), samples, samples + size);
      return;
    }
    if (prefer == Prefer::size) {
      encode_predictor(type, shape, loaded, out);
    } else {
      encode_wavelet(type, shape, levels, loaded, coder, out);
    }
    if (out.size() < n * size) return;
    out.clear();
    frame::put_prefix(out, kRaw, type, shape);
    out.insert(out.end(), samples, samples + n * size);
  }

  // What repeats and what does not occur is taken out; the rest are nested frames. False if that does not pay.
  static bool encode_planes(PlaneFinder& finder, const uint8_t* samples, Type type, const Shape& shape, unsigned levels, Prefer prefer,
                            Coder coder, std::vector<uint8_t>& out) {
    const size_t size = size_of(type), n = shape.samples(), count = shape.planes();
    if (std::memcmp(samples, samples + size, (n - 1) * size) == 0) return false;
    std::vector<PlaneMap> maps;
    if (count > planes::kMaxPlanes || !finder.find(type, samples, count, shape.height(), shape.width(), maps)) return false;
    out.clear();
    frame::put_prefix(out, kPlanes, type, shape);
    auto code = [&](const uint8_t* nested, const planes::Group& group, bool all, std::vector<uint8_t>& to) {
      encode_whole(nested, group.inner, shape.nested(group.planes, group.height, group.width, all), levels, true, prefer, coder, to);
    };
    planes::put(samples, type, shape.height(), shape.width(), maps, code, out);
    return out.size() < n * size;
  }

  static void encode_wavelet(Type type, const Shape& shape, unsigned levels, const Loaded& loaded, Coder coder, std::vector<uint8_t>& out) {
    Workspace& ws = Workspace::mine();
    std::vector<Colour> colours;
    std::vector<unsigned> axes;
    for (unsigned axis = 0; axis + 2 < shape.rank; ++axis) {
      if (shape.extent[axis] != 3 && shape.extent[axis] != 4) continue;
      colours.push_back(colour_along(shape, axis));
      axes.push_back(axis);
    }
    Order order = Order::plain;
    const unsigned useful = useful_levels(shape.height(), shape.width(), levels);
    ws.resolution_encoder.start(coded_bands(shape, useful, order), order, ws.words.data(), colours);
    if (ws.resolution_encoder.better_transposed()) {
      order = Order::transposed;
      transpose_planes(ws.words, shape.planes(), shape.height(), shape.width(), ws.transposed);
      ws.resolution_encoder.start(coded_bands(shape, useful, order), order, ws.transposed.data(), colours);
    }
    std::vector<uint8_t>& body = ws.body;
    std::vector<size_t>& ends = ws.ends;
    body.clear();
    ends.clear();
    ColourKind kind;
    const int chosen = ws.resolution_encoder.write(coder, body, ends, kind);
    frame::put_prefix(out, order == Order::plain ? kWavelet53 : kWavelet53Transposed, type, shape);
    frame::put_flags(out, useful, loaded.packed, chosen >= 0 ? static_cast<int>(axes[static_cast<size_t>(chosen)]) : -1, kind);
    put_values(type, loaded, out);
    size_t begin = 0;
    for (unsigned s = 0; s < useful; ++s) {
      frame::put_varint(out, ends[s] - begin);
      begin = ends[s];
    }
    out.insert(out.end(), body.begin(), body.end());
  }

  static void encode_predictor(Type type, const Shape& shape, const Loaded& loaded, std::vector<uint8_t>& out) {
    Workspace& ws = Workspace::mine();
    const int axis = word_colour_axis(shape, ws.words.data());
    if (axis >= 0) colour_along(shape, static_cast<unsigned>(axis)).apply(ws.words.data(), shape.height() * shape.width());
    frame::put_prefix(out, kPredictor, type, shape);
    frame::put_flags(out, 0, loaded.packed, axis, {});
    put_values(type, loaded, out);
    planes_of(shape, ws.planes);
    ws.predictor_encoder.encode(ws.words.data(), ws.planes, out);
  }

  static void put_values(Type type, const Loaded& loaded, std::vector<uint8_t>& out) {
    if (loaded.packed) {
      write_palette(Workspace::mine().keys, out);
    } else if (size_of(type) == 4) {
      for (unsigned i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(loaded.base >> (8 * i)));
    }
  }

  // The leading axis of three or four samples on whose first planes YCoCg-R pays; -1 if there is none.
  static int word_colour_axis(const Shape& shape, const int32_t* words) {
    WordColour& colour = Workspace::mine().word_colour;
    for (unsigned axis = 0; axis + 2 < shape.rank; ++axis) {
      if (shape.extent[axis] != 3 && shape.extent[axis] != 4) continue;
      size_t step = shape.height() * shape.width();
      for (unsigned i = axis + 1; i + 2 < shape.rank; ++i) step *= shape.extent[i];
      const int32_t* const planes[3] = {words, words + step, words + 2 * step};
      if (colour.pays(planes, shape.height(), shape.width())) return static_cast<int>(axis);
    }
    return -1;
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
};

class TileDecoder {
 public:
  // Writes the tile at `reduce` into out: chunk.extent with the last two axes reduced, C order; the part
  // beyond the frame's own extents becomes 0. data may end after the segment that reduce needs.
  static void decode(Bytes data, Type type, const Shape& chunk, unsigned reduce, unsigned levels, uint8_t* out) {
    Bytes in = data;
    const Header h = frame::take_header(in, type, chunk, levels);
    const Target target{out, size_of(type), chunk, h.shape, reduce};
    if (h.shape.samples() != chunk.samples()) std::memset(out, 0, target.bytes());
    if (h.transform == kConstant) return decode_constant(in, target);
    if (h.transform == kRaw) return decode_raw(in, type, h, target);
    if (h.transform == kPredictor) return decode_predictor(in, type, h, target);
    if (h.transform == kPlanes) return decode_planes(in, type, h, target, levels);
    if (h.transform == kClusters) return decode_clusters(in, type, h, target, levels);
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
    size_t bytes() const { return chunk.planes() * reduced(chunk.height()) * reduced(chunk.width()) * size; }
    size_t height() const { return reduced(valid.height()); }
    size_t width() const { return reduced(valid.width()); }
    // Of values that cannot be averaged: whether a row or column of the full size is in the reduced one.
    bool shows(size_t y) const { return (y & ((size_t{1} << reduce) - 1)) == 0; }
    uint8_t* shown_row(size_t p, size_t y) const { return shows(y) ? row(p, y >> reduce) : nullptr; }
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

  // Nested frames hold the extents that the maps say, and are of any kind but this.
  static void decode_clusters(Bytes in, Type type, const Header& h, const Target& t, unsigned levels) {
    const size_t n = h.shape.samples(), size = h.shape.height() * h.shape.width(), width = h.shape.width();
    std::vector<uint32_t> keys;  // not the workspace's: nested frames use that
    read_palette(type, n, in, keys);
    Clusters clusters;
    clusters.cut(keys, frame::take_varint(in));
    const uint32_t length = frame::take_varint(in);
    if (length > in.size) throw Corrupt("a nested frame ends behind the frame");
    std::vector<uint8_t> numbers(2 * n), places(n);
    decode_nested({in.data, length}, Type::u16, h.shape, levels, numbers.data());
    decode_nested({in.data + length, in.size - length}, Type::i8, h.shape, levels, places.data());
    std::vector<int32_t> ranks(size);
    for (size_t p = 0; p < h.shape.planes(); ++p) {
      clusters.join(&numbers[2 * p * size], &places[p * size], size, ranks.data());
      for (size_t y = 0; y < h.shape.height(); ++y) store_values(type, &ranks[y * width], width, keys, t.reduce, t.shown_row(p, y), t.width());
    }
  }

  // A frame of all samples of `shape` that has no nested ones itself.
  static void decode_nested(Bytes data, Type type, const Shape& shape, unsigned levels, uint8_t* out) {
    Bytes rest = data;
    const Header header = frame::take_header(rest, type, shape, levels);
    if (header.transform == kPlanes || header.transform == kClusters) throw Corrupt("a nested frame has nested frames");
    for (unsigned i = 0; i < shape.rank; ++i)
      if (header.shape.extent[i] != shape.extent[i]) throw Corrupt("a nested frame has other extents than its planes");
    decode(data, type, shape, 0, levels, out);
  }

  static void decode_planes(Bytes in, Type type, const Header& h, const Target& t, unsigned levels) {
    auto decode_nested = [&](Bytes data, const planes::Group& group, bool all, uint8_t* out) {
      const Shape shape = h.shape.nested(group.planes, group.height, group.width, all);
      Bytes rest = data;
      const Header header = frame::take_header(rest, group.inner, shape, levels);
      if (header.transform == kPlanes) throw Corrupt("a nested frame has nested frames");
      for (unsigned i = 0; i < shape.rank; ++i)
        if (header.shape.extent[i] != shape.extent[i]) throw Corrupt("a nested frame has other extents than its planes");
      decode(data, group.inner, shape, 0, levels, out);
    };
    planes::take(in, type, h.shape.planes(), h.shape.height(), h.shape.width(), t.reduce, decode_nested,
                 [&](size_t p, size_t y) { return t.row(p, y); });
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
      analyse(height, w, [&](size_t y) { return words + y * w; },
              Rows{words, low_size(w)}, nowhere, nowhere, nowhere, ws.scratch.data());
      height = low_size(height);
      width = low_size(w);
    }
  }

  static void decode_wavelet(Bytes in, Type type, const Header& h, unsigned reduce, const Target& t) {
    Workspace& ws = Workspace::mine();
    const Subbands tile = coded_bands(h.shape, h.levels, h.order);
    if (h.packed) read_palette(type, h.shape.samples(), in, ws.keys);
    const unsigned skipped = h.packed ? 0 : std::min(reduce, h.levels);
    std::vector<Bytes> segments;
    take_segments(in, h.levels, h.levels + 1 - skipped, segments);
    const Colour colour = h.colour ? colour_along(h.shape, h.colour_axis, h.colour_kind) : Colour();
    const size_t width = tile.width_at(skipped), kept = t.reduced(tile.width);
    bool inside = true;
    const auto store = [&](size_t y, const int32_t* row, uint8_t* out) {
      if (h.packed) {
        inside &= store_values(type, row, width, ws.keys, reduce, t.shows(y) ? out : nullptr, kept);
      } else {
        inside &= store_words(type, row, width, h.base, reduce == 0, out);
      }
    };
    const unsigned thin = h.packed ? reduce : 0;  // rows that come for one that is shown: 2^thin
    if (h.order == Order::plain) {
      ws.resolution_decoder.decode(tile, h.order, colour, segments, [&](size_t p, size_t y, const int32_t* row) {
        store(y, row, t.row(p, y >> thin));
      });
    } else {
      Columns& columns = ws.columns;
      columns.start(t.size, t.height(), t.width());
      ws.resolution_decoder.decode(tile, h.order, colour, segments, [&](size_t p, size_t x, const int32_t* row) {
        store(x, row, columns.row(x >> thin));
        if (!h.packed || t.shows(x)) columns.close(x >> thin, [&](size_t y) { return t.row(p, y); });
      });
    }
    if (!inside && (reduce == 0 || h.packed)) throw Corrupt("a sample is outside the range of its type");
  }

  static void decode_predictor(Bytes in, Type type, const Header& h, const Target& t) {
    Workspace& ws = Workspace::mine();
    const size_t height = h.shape.height(), width = h.shape.width();
    if (h.packed) read_palette(type, h.shape.samples(), in, ws.keys);
    planes_of(h.shape, ws.planes);
    ws.coefficients.resize(h.shape.samples());
    ws.predictor_decoder.decode(in, ws.planes, ws.coefficients.data());
    if (h.colour) colour_along(h.shape, h.colour_axis, h.colour_kind).undo(ws.coefficients.data(), h.shape.height() * h.shape.width());
    bool inside = true;
    for (size_t p = 0; p < ws.planes.size(); ++p) {
      const int32_t* words = ws.coefficients.data() + p * height * width;
      if (h.packed) {
        for (size_t y = 0; y < height; ++y) inside &= store_values(type, words + y * width, width, ws.keys, t.reduce, t.shown_row(p, y), t.width());
      } else if (t.reduce == 0) {
        for (size_t y = 0; y < height; ++y) inside &= store_words(type, words + y * width, width, h.base, true, t.row(p, y));
      } else {
        ws.words.assign(words, words + height * width);
        ws.scratch.resize(6 * width + 1);
        reduce_plane(ws, height, width, t.reduce);
        for (size_t y = 0; y < t.height(); ++y) store_words(type, ws.words.data() + y * t.width(), t.width(), h.base, false, t.row(p, y));
      }
    }
    if (!inside) throw Corrupt("a sample is outside the range of its type");
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

  // A row of ranks as values, every 2^reduce-th of them to out: `kept` samples. out: nullptr where a reduced size does
  // not show the row, whose ranks must be sound all the same.
  static bool store_values(Type type, const int32_t* row, size_t width, const std::vector<uint32_t>& keys, unsigned reduce, uint8_t* out,
                           size_t kept) {
    uint32_t most = 0;
    for (size_t x = 0; x < width; ++x) most = std::max(most, static_cast<uint32_t>(row[x]));
    const bool inside = most < keys.size();
    if (!inside || out == nullptr) return inside;
    const uint32_t* values = keys.data();
    const size_t size = size_of(type);
    const auto store = [&](Type as) {
      for (size_t x = 0; x < kept; ++x) palette_store(as, values[row[x << reduce]], out + x * size);
    };
    switch (type) {  // once a row, not for each sample
      case Type::u16: store(Type::u16); break;
      case Type::i16: store(Type::i16); break;
      default: store(type);
    }
    return true;
  }
};

}  // namespace tilevault
