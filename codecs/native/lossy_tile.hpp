// A tile of the learned codec: a short header, then the symbols of all planes. A plane may be coded as what is
// left after a multiple of an earlier one, as that was decoded before restoration.
//
//     u16 code of the step, u8: 1: four states take turns; 2: some block is restored; 4: bits of the tile's range
//     by plane: varint zigzag(low), varint(high - low) of what is coded; from the second plane on
//               u8 reference (0: none, n: n planes before), and then i8 its weight in 64ths
//     the symbols; those of a plane that is not constant end with the restoration's strength: 3 bits, 0 to 3 or,
//               4, 2 bits for each block of 64 x 64
#pragma once

#include "lossy_plane.hpp"
#include "varint.hpp"

namespace tilevault::lossy {

constexpr unsigned kByBlock = 4;         // a strength that says: each block has its own
constexpr size_t kMostPlanes = 4096;
constexpr int32_t kMostLow = 1 << 24;    // magnitude of a plane's low
constexpr size_t kMostBack = 16;         // how many planes before an encoder looks for a reference
constexpr uint8_t kManyFlag = 1, kRestoredFlag = 2;
constexpr unsigned kRangeShift = 2;
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
  unsigned reference = 0;  // how many planes before
  int32_t weight = 0;
};

inline int64_t predicted(int32_t weight, int32_t reference) {
  return (int64_t{weight} * reference + (1 << (kReferenceBits - 1))) >> kReferenceBits;
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

// Samples of a plane from least to most, with what they were predicted from.
struct Finisher {
  Sampler sampler;
  const int32_t* reference;
  int32_t weight, least, most;

  template <class Work>
  void operator()(size_t first, size_t end, Work&& work, int32_t* to) const {
    if (reference == nullptr) {
      for (size_t i = first; i < end; ++i) to[i] = std::clamp(sampler(work(i)), least, most);
    } else {
      for (size_t i = first; i < end; ++i)
        to[i] = static_cast<int32_t>(std::clamp<int64_t>(int64_t{sampler(work(i))} + predicted(weight, reference[i]), least, most));
    }
  }
};

// The plane as it is without restoration, and with it where `restored` is given.
inline void finish(const PlaneBuffers& b, const PlaneHeader& head, int64_t step, const Strengths& strength, const int32_t* reference,
                   int32_t least, int32_t most, int32_t* plain, int32_t* restored) {
  const Finisher finisher{Sampler(head.range), reference, head.weight, least, most};
  auto kernel = [&] {
    const int32_t* work = b.work.data();
    const int16_t* correction = b.correction.data();
    finisher(0, b.height * b.width, [=](size_t i) { return work[i]; }, plain);
    if (restored == nullptr) return;
    for (size_t y = 0; y < b.height; ++y)
      for (size_t x = 0; x < b.width; x += kBlock) {
        const size_t first = y * b.width + x, end = first + std::min(kBlock, b.width - x);
        const uint8_t s = strength.at(y, x);
        if (s == 0) {
          std::copy(plain + first, plain + end, restored + first);
        } else {
          const Restorer restore(s, step);
          finisher(first, end, [=](size_t i) { return restore(work[i], correction[i]); }, restored);
        }
      }
  };
  run_widest(kernel, kernel);
}

inline void fill(const PlaneHeader& head, const int32_t* reference, size_t n, int32_t least, int32_t most, int32_t* to) {
  for (size_t i = 0; i < n; ++i)
    to[i] = static_cast<int32_t>(std::clamp<int64_t>(head.range.low + (reference != nullptr ? predicted(head.weight, reference[i]) : 0), least, most));
}

}  // namespace detail

// Decodes into plain (before restoration) and, unless it is null, restored; samples are from least to most.
// Throws Corrupt.
inline void decode_tile(const Model& model, Bytes in, TileShape shape, int32_t least, int32_t most, int32_t* plain, int32_t* restored) {
  if (shape.planes > kMostPlanes) throw Corrupt("the tile has too many planes");
  const unsigned code = frame::take_byte(in) | static_cast<unsigned>(frame::take_byte(in)) << 8;
  if (code >= kSteps) throw Corrupt("the step is out of range");
  const uint8_t flags = frame::take_byte(in);
  const int bits = flags >> kRangeShift;
  if (bits > static_cast<int>(kMostRange)) throw Corrupt("the range of the tile is out of range");
  std::vector<PlaneHeader> heads(shape.planes);
  for (size_t p = 0; p < shape.planes; ++p) {
    PlaneHeader& h = heads[p];
    h.range.low = unzigzag(frame::take_varint(in));
    const uint32_t range = frame::take_varint(in);
    if (range >> kMostRange != 0 || std::abs(int64_t{h.range.low}) > kMostLow) throw Corrupt("the range of a plane is out of range");
    h.range.high = h.range.low + static_cast<int32_t>(range);
    h.range.fraction = kWorkBits - bits;
    if (p == 0) continue;
    h.reference = frame::take_byte(in);
    if (h.reference > p) throw Corrupt("a plane refers to one that is not before it");
    if (h.reference != 0) h.weight = static_cast<int8_t>(frame::take_byte(in));
  }
  static thread_local PlaneBuffers buffers;
  const int64_t step = model.step(code);
  SymbolReader symbols(in, flags & kManyFlag ? kManyStates : 1);
  for (size_t p = 0; p < shape.planes; ++p) {
    const PlaneHeader& head = heads[p];
    const int32_t* reference = head.reference != 0 ? plain + (p - head.reference) * shape.plane() : nullptr;
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
    if (any && (flags & kRestoredFlag) == 0) throw Corrupt("a block is restored that should not be");
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

  // samples from least to most, within 2^16 of each other and -kMostLow .. kMostLow; plain and restored take what
  // decoders will have.
  void encode(const int32_t* samples, TileShape shape, int32_t least, int32_t most, int32_t* plain, int32_t* restored, std::vector<uint8_t>& out) {
    static thread_local PlaneBuffers buffers;
    static thread_local SymbolWriter symbols;
    symbols.clear();
    out.assign({static_cast<uint8_t>(code_), static_cast<uint8_t>(code_ >> 8), 0});
    std::vector<int32_t> left;
    bool any = false;
    const int bits = range_bits(samples, shape);
    for (size_t p = 0; p < shape.planes; ++p) {
      const size_t n = shape.plane();
      PlaneHeader head = p == 0 ? PlaneHeader{} : reference(samples, p, shape);
      const int32_t* from = samples + p * n;
      const int32_t* base = head.reference != 0 ? plain + (p - head.reference) * n : nullptr;
      if (base != nullptr) {
        left.resize(n);
        for (size_t i = 0; i < n; ++i) left[i] = static_cast<int32_t>(from[i] - predicted(head.weight, base[i]));
        const Range range = range_of(left.data(), n);
        if (bit_length(static_cast<uint32_t>(range.high - range.low)) <= kMostRange && std::abs(range.low) <= kMostLow) {
          from = left.data();
        } else {  // some samples are far from their prediction
          head.reference = 0;
          base = nullptr;
        }
      }
      head.range = range_of(from, n, kWorkBits - bits);
      write(head, p, out);
      if (head.range.low == head.range.high) {
        detail::fill(head, base, n, least, most, plain + p * n);
        std::copy_n(plain + p * n, n, restored + p * n);
        continue;
      }
      buffers.shape(shape.height, shape.width, true);
      enter(from, n, head.range, buffers);
      PlaneCoder<Encoding>(m_, step_, buffers, Encoding(m_, symbols, slope_)).code();
      const Strengths strength = restore_ ? choose(from, head.range, buffers, shape, symbols) : off(shape, symbols);
      any |= std::any_of(strength.of.begin(), strength.of.end(), [](uint8_t k) { return k != 0; });
      detail::finish(buffers, head, step_, strength, base, least, most, plain + p * n, restored + p * n);
    }
    const bool many = symbols.size() > kFewSymbols;
    out[2] = static_cast<uint8_t>((many ? kManyFlag : 0) | (any ? kRestoredFlag : 0) | bits << kRangeShift);
    symbols.write(many ? kManyStates : 1, out);
  }

  // Of the widest plane.
  static int range_bits(const int32_t* samples, TileShape s) {
    unsigned bits = 0;
    for (size_t p = 0; p < s.planes; ++p) {
      const Range range = range_of(samples + p * s.plane(), s.plane());
      bits = std::max(bits, bit_length(static_cast<uint32_t>(range.high - range.low)));
    }
    return static_cast<int>(bits);
  }

  // The earlier plane whose multiple leaves least of the differences between neighbours, if it is worth it.
  static PlaneHeader reference(const int32_t* samples, size_t plane, TileShape s) {
    constexpr double kWorth = 0.9;
    const size_t n = s.plane();
    PlaneHeader best;
    double least = kWorth;
    for (size_t back = 1; back <= std::min(plane, kMostBack); ++back) {
      const auto [aa, ab, bb] = products(samples + (plane - back) * n, samples + plane * n, s);
      if (aa == 0 || bb == 0) continue;
      const double weight = std::clamp(std::floor(ab / aa * (1 << kReferenceBits) + 0.5), -128.0, 127.0), w = weight / (1 << kReferenceBits);
      const double rest = (bb - 2 * w * ab + w * w * aa) / bb;
      if (rest >= least || weight == 0) continue;
      least = rest;
      best.reference = static_cast<unsigned>(back);
      best.weight = static_cast<int32_t>(weight);
    }
    return best;
  }

  // What is coded of a plane, on the scale of the transform: b.work.
  static void enter(const int32_t* from, size_t n, const Range& range, PlaneBuffers& b) {
    auto kernel = [&, middle = range.middle(), shift = Shift(range.fraction)] {
      int32_t* to = b.work.data();
      for (size_t i = 0; i < n; ++i) to[i] = shift(from[i] - middle);
    };
    run_widest(kernel, kernel);
  }

 private:
  static void write(const PlaneHeader& head, size_t plane, std::vector<uint8_t>& out) {
    frame::put_varint(out, zigzag(head.range.low));
    frame::put_varint(out, static_cast<uint32_t>(head.range.high - head.range.low));
    if (plane == 0) return;
    out.push_back(static_cast<uint8_t>(head.reference));
    if (head.reference != 0) out.push_back(static_cast<uint8_t>(head.weight));
  }

  // Sums of products of the differences between neighbours of two planes: of a with a, a with b, b with b.
  static std::array<double, 3> products(const int32_t* a, const int32_t* b, TileShape s) {
    std::array<double, 3> found{};
    auto kernel = [&] {
      int64_t aa = 0, ab = 0, bb = 0;
      const auto add = [&](size_t first, size_t end, size_t before) {
        for (size_t i = first; i < end; ++i) {
          const int32_t da = a[i] - a[i - before], db = b[i] - b[i - before];
          aa += int64_t{da} * da;
          ab += int64_t{da} * db;
          bb += int64_t{db} * db;
        }
      };
      for (size_t y = 0; y < s.height; ++y) add(y * s.width + 1, (y + 1) * s.width, 1);
      add(s.width, s.plane(), s.width);
      found = {static_cast<double>(aa), static_cast<double>(ab), static_cast<double>(bb)};
    };
    run_widest(kernel, kernel);
    return found;
  }

  Strengths off(TileShape s, SymbolWriter& out) const {
    out.put_raw(0, 3);
    return detail::strengths(s);
  }

  static double squares(const int32_t* from, size_t first, size_t n, const Sampler& sample, const Restorer& restore, const PlaneBuffers& b) {
    const int32_t* work = b.work.data() + first;
    const int16_t* correction = b.correction.data() + first;
    int64_t sum = 0;
    for (size_t i = 0; i < n; ++i) {
      const int32_t d = from[first + i] - sample(restore(work[i], correction[i]));
      sum += int64_t{d} * d;
    }
    return static_cast<double>(sum);
  }

  // The strength of each block that leaves least error; one for all where the bits for more are not worth it.
  Strengths choose(const int32_t* from, const Range& range, PlaneBuffers& b, TileShape s, SymbolWriter& out) const {
    detail::restored_blocks(s, b.blocks);
    std::fill(b.blocks.active.begin(), b.blocks.active.end(), uint8_t{1});
    restoration(m_, step_, b);
    Strengths best = detail::strengths(s);
    std::vector<std::array<double, kStrengths>> errors(best.of.size(), {0, 0, 0, 0});
    auto kernel = [&] {
      for (unsigned k = 0; k < kStrengths; ++k)
        for (size_t y = 0; y < s.height; ++y)
          for (size_t x = 0; x < s.width; x += kBlock)
            errors[y / kBlock * best.columns + x / kBlock][k] += squares(from, y * s.width + x, std::min(kBlock, s.width - x), Sampler(range), Restorer(k, step_), b);
    };
    run_widest(kernel, kernel);
    const double sample = std::ldexp(static_cast<double>(step_) / 64, -range.fraction), worth = slope_ / (sample * sample);
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
