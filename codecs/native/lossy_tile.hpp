// A tile of the learned codec: a short header, then the symbols of all planes. A plane may be coded as what is
// left after a multiple of an earlier one, as that was decoded before restoration.
//
//     u16 code of the step, u8 flags (1: four states take turns)
//     by plane: varint zigzag(low), varint(high - low) of what is coded; from the second plane on
//               u8 reference (0: none, n: plane n - 1), and then i8 its weight in 64ths
//     the symbols; those of a plane that is not constant end with the restoration's strength: 3 bits, 0 to 3 or,
//               4, 2 bits for each block of 64 x 64
#pragma once

#include "lossy_plane.hpp"
#include "varint.hpp"

namespace tilevault::lossy {

constexpr unsigned kByBlock = 4;         // a strength that says: each block has its own
constexpr size_t kMostPlanes = 64;
constexpr unsigned kReferenceBits = 6;   // of a weight below the point
constexpr double kRestorationWorth = 8;  // bits that restoring a block must be worth, for the time it takes
constexpr size_t kFewSymbols = 6000;     // of which one state is enough

struct TileShape {
  size_t planes, height, width;
  size_t plane() const { return height * width; }
  size_t samples() const { return planes * plane(); }
};

struct PlaneHeader {
  Range range;
  unsigned reference = 0;  // one more than its index
  int32_t weight = 0;
};

inline int32_t predicted(int32_t weight, int32_t reference) {
  return static_cast<int32_t>((int64_t{weight} * reference + (1 << (kReferenceBits - 1))) >> kReferenceBits);
}

struct Strengths {
  size_t columns;
  std::vector<uint8_t> of;
  uint8_t at(size_t y, size_t x) const { return of[y / kBlock * columns + x / kBlock]; }
};

namespace detail {

inline Strengths strengths(const TileShape& s) {
  const size_t columns = (s.width - 1) / kBlock + 1;
  return {columns, std::vector<uint8_t>(columns * ((s.height - 1) / kBlock + 1), 0)};
}

// The blocks of strengths, on the grid on which the restoration works.
inline void restored_blocks(const TileShape& s, Blocks& b) { b.shape(kBlock / 4, halved(s.height, 2), halved(s.width, 2)); }

// The plane as it is without restoration, and with it where `restored` is given.
inline void finish(const PlaneBuffers& b, const PlaneHeader& head, int64_t step, const Strengths& strength, const int32_t* reference,
                   int32_t least, int32_t most, int32_t* plain, int32_t* restored) {
  for (size_t y = 0; y < b.height; ++y) {
    for (size_t x = 0; x < b.width; ++x) {
      const size_t i = y * b.width + x;
      const int32_t base = reference != nullptr ? predicted(head.weight, reference[i]) : 0;
      const auto sample = [&](int32_t work) { return static_cast<int32_t>(std::clamp<int64_t>(int64_t{head.range.to_sample(work)} + base, least, most)); };
      plain[i] = sample(b.work[i]);
      if (restored == nullptr) continue;
      const uint8_t s = strength.at(y, x);
      restored[i] = s == 0 ? plain[i] : sample(lossy::restored(b.work[i], b.correction[i], s, step));
    }
  }
}

inline void fill(const PlaneHeader& head, const int32_t* reference, size_t n, int32_t least, int32_t most, int32_t* to) {
  for (size_t i = 0; i < n; ++i)
    to[i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{head.range.low} + (reference != nullptr ? predicted(head.weight, reference[i]) : 0), least, most));
}

}  // namespace detail

// Decodes into plain (before restoration) and, unless it is null, restored; samples are from least to most.
// Throws Corrupt.
inline void decode_tile(const Model& model, Bytes in, TileShape shape, int32_t least, int32_t most, int32_t* plain, int32_t* restored) {
  if (shape.planes > kMostPlanes) throw Corrupt("the tile has too many planes");
  const unsigned code = frame::take_byte(in) | static_cast<unsigned>(frame::take_byte(in)) << 8;
  if (code >= kSteps) throw Corrupt("the step is out of range");
  const uint8_t flags = frame::take_byte(in);
  if (flags > 1) throw Corrupt("unknown flags");
  std::vector<PlaneHeader> heads(shape.planes);
  for (size_t p = 0; p < shape.planes; ++p) {
    PlaneHeader& h = heads[p];
    h.range.low = unzigzag32(frame::take_varint(in));
    const uint32_t range = frame::take_varint(in);
    if (range >> kMostRange != 0 || std::abs(int64_t{h.range.low}) > 1 << 24) throw Corrupt("the range of a plane is out of range");
    h.range.high = h.range.low + static_cast<int32_t>(range);
    if (p == 0) continue;
    h.reference = frame::take_byte(in);
    if (h.reference > p) throw Corrupt("a plane refers to one that is not before it");
    if (h.reference != 0) h.weight = static_cast<int8_t>(frame::take_byte(in));
  }
  static thread_local PlaneBuffers buffers;
  const int64_t step = model.step(code);
  SymbolReader symbols(in, flags & 1 ? kManyStates : 1);
  for (size_t p = 0; p < shape.planes; ++p) {
    const PlaneHeader& head = heads[p];
    const int32_t* reference = head.reference != 0 ? plain + (head.reference - 1) * shape.plane() : nullptr;
    int32_t* to = plain + p * shape.plane();
    int32_t* better = restored != nullptr ? restored + p * shape.plane() : nullptr;
    if (head.range.low == head.range.high) {
      detail::fill(head, reference, shape.plane(), least, most, to);
      if (better != nullptr) std::copy_n(to, shape.plane(), better);
      continue;
    }
    buffers.shape(shape.height, shape.width, false);
    PlaneCoder<Decoding>(model, step, buffers, Decoding(symbols)).code();
    Strengths strength = detail::strengths(shape);
    const unsigned all = symbols.raw(3);
    if (all > kByBlock) throw Corrupt("the strength of a restoration is out of range");
    bool any = false;
    for (uint8_t& s : strength.of) {
      s = static_cast<uint8_t>(all == kByBlock ? symbols.raw(2) : all);
      any |= s != 0;
    }
    if (better != nullptr && any) {
      detail::restored_blocks(shape, buffers.blocks);
      for (size_t i = 0; i < strength.of.size(); ++i) buffers.blocks.active[i] = strength.of[i] != 0;
      restoration(model, step, buffers);
    }
    detail::finish(buffers, head, step, strength, reference, least, most, to, better);
  }
  symbols.expect_end();
}

class TileEncoder {
 public:
  // slope: bits that the squared error of one step is worth; restore: whether restoration may be used.
  TileEncoder(const Model& model, unsigned code, double slope, bool restore)
      : m_(model), code_(code), step_(model.step(code)), slope_(slope), restore_(restore) {}

  // samples from least to most, a range of at most 2^16; plain and restored take what decoders will have.
  void encode(const int32_t* samples, TileShape shape, int32_t least, int32_t most, int32_t* plain, int32_t* restored, std::vector<uint8_t>& out) {
    static thread_local PlaneBuffers buffers;
    static thread_local SymbolWriter symbols;
    symbols.clear();
    out.assign({static_cast<uint8_t>(code_), static_cast<uint8_t>(code_ >> 8), 0});
    std::vector<int32_t> left;
    for (size_t p = 0; p < shape.planes; ++p) {
      const size_t n = shape.plane();
      PlaneHeader head = p == 0 ? PlaneHeader{} : reference(samples, p, shape);
      const int32_t* from = samples + p * n;
      const int32_t* base = head.reference != 0 ? plain + (head.reference - 1) * n : nullptr;
      if (base != nullptr) {
        left.resize(n);
        for (size_t i = 0; i < n; ++i) left[i] = from[i] - predicted(head.weight, base[i]);
        from = left.data();
      }
      const auto [low, high] = std::minmax_element(from, from + n);
      head.range = {*low, *high};
      write(head, p, out);
      if (*low == *high) {
        detail::fill(head, base, n, least, most, plain + p * n);
        std::copy_n(plain + p * n, n, restored + p * n);
        continue;
      }
      buffers.shape(shape.height, shape.width, true);
      for (size_t i = 0; i < n; ++i) buffers.work[i] = head.range.to_work(from[i]);
      PlaneCoder<Encoding>(m_, step_, buffers, Encoding(m_, symbols, slope_)).code();
      const Strengths strength = restore_ ? choose(from, head.range, buffers, shape, symbols) : off(shape, symbols);
      detail::finish(buffers, head, step_, strength, base, least, most, plain + p * n, restored + p * n);
    }
    const bool many = symbols.size() > kFewSymbols;
    out[2] = many ? 1 : 0;
    symbols.write(many ? kManyStates : 1, out);
  }

 private:
  static void write(const PlaneHeader& head, size_t plane, std::vector<uint8_t>& out) {
    frame::put_varint(out, zigzag32(head.range.low));
    frame::put_varint(out, static_cast<uint32_t>(head.range.high - head.range.low));
    if (plane == 0) return;
    out.push_back(static_cast<uint8_t>(head.reference));
    if (head.reference != 0) out.push_back(static_cast<uint8_t>(head.weight));
  }

  // The earlier plane whose multiple leaves least of the differences between neighbours, if it is worth it.
  static PlaneHeader reference(const int32_t* samples, size_t plane, TileShape s) {
    constexpr double kWorth = 0.9;
    const size_t n = s.plane();
    PlaneHeader best;
    double least = kWorth;
    for (size_t r = 0; r < plane; ++r) {
      const int32_t* a = samples + r * n;
      const int32_t* b = samples + plane * n;
      double aa = 0, ab = 0, bb = 0;
      auto add = [&](size_t i, size_t j) {
        const double da = a[i] - a[j], db = b[i] - b[j];
        aa += da * da;
        ab += da * db;
        bb += db * db;
      };
      for (size_t y = 0; y < s.height; ++y)
        for (size_t x = 0; x < s.width; ++x) {
          const size_t i = y * s.width + x;
          if (x > 0) add(i, i - 1);
          if (y > 0) add(i, i - s.width);
        }
      if (aa == 0 || bb == 0) continue;
      const double weight = std::clamp(std::floor(ab / aa * (1 << kReferenceBits) + 0.5), -128.0, 127.0), w = weight / (1 << kReferenceBits);
      const double rest = (bb - 2 * w * ab + w * w * aa) / bb;
      if (rest >= least || weight == 0) continue;
      least = rest;
      best.reference = static_cast<unsigned>(r + 1);
      best.weight = static_cast<int32_t>(weight);
    }
    return best;
  }

  Strengths off(TileShape s, SymbolWriter& out) const {
    out.put_raw(0, 3);
    return detail::strengths(s);
  }

  // The strength of each block that leaves least error; one for all where the bits for more are not worth it.
  Strengths choose(const int32_t* from, const Range& range, PlaneBuffers& b, TileShape s, SymbolWriter& out) const {
    detail::restored_blocks(s, b.blocks);
    std::fill(b.blocks.active.begin(), b.blocks.active.end(), uint8_t{1});
    restoration(m_, step_, b);
    Strengths best = detail::strengths(s);
    std::vector<std::array<double, kStrengths>> errors(best.of.size(), {0, 0, 0, 0});
    for (size_t y = 0; y < s.height; ++y)
      for (size_t x = 0; x < s.width; ++x) {
        const size_t i = y * s.width + x;
        std::array<double, kStrengths>& e = errors[y / kBlock * best.columns + x / kBlock];
        for (unsigned k = 0; k < kStrengths; ++k) {
          const double d = from[i] - range.to_sample(restored(b.work[i], b.correction[i], k, step_));
          e[k] += d * d;
        }
      }
    const double sample = std::ldexp(static_cast<double>(step_) / 64, -range.fraction()), worth = slope_ / (sample * sample);
    std::array<double, kStrengths> all{};
    double each = 0;
    for (size_t i = 0; i < errors.size(); ++i) {
      const double off = errors[i][0] * worth;
      for (unsigned k = 1; k < kStrengths; ++k)
        if (off - errors[i][k] * worth < kRestorationWorth) errors[i][k] = std::max(errors[i][k], errors[i][0]);
      const auto least = std::min_element(errors[i].begin(), errors[i].end());
      best.of[i] = static_cast<uint8_t>(least - errors[i].begin());
      each += *least;
      for (unsigned k = 0; k < kStrengths; ++k) all[k] += errors[i][k];
    }
    const auto same = std::min_element(all.begin(), all.end());
    if (errors.size() == 1 || (*same - each) * worth <= 2.0 * static_cast<double>(errors.size())) {
      std::fill(best.of.begin(), best.of.end(), static_cast<uint8_t>(same - all.begin()));
      out.put_raw(static_cast<uint32_t>(same - all.begin()), 3);
    } else {
      out.put_raw(kByBlock, 3);
      for (uint8_t k : best.of) out.put_raw(k, 2);
    }
    return best;
  }

  const Model& m_;
  unsigned code_;
  int64_t step_;
  double slope_;
  bool restore_;
};

}  // namespace tilevault::lossy
