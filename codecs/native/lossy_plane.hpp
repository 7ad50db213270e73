// One plane of the learned codec: coefficients of the 9/7 wavelet, coarse to fine, whose chances two small
// networks tell from what is known already; then a network restores what the quantiser took.
//
// Each decomposition is coded in two passes over a checkerboard: the first knows the coarser bands only, the
// second the first. HL and HH of a position belong to one pass, LH to the other. Encoder and decoder are one
// template, so they cannot disagree: the encoder's `Chooser` picks the coefficient that costs least, in bits and
// squared error, where the decoder reads one.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "lossy_stream.hpp"
#include "tokens.hpp"
#include "wavelet97.hpp"

namespace tilevault::lossy {

constexpr int kMostMean = 8191;          // in eighths of a step
constexpr int32_t kMostQuantised = 1 << 17;
constexpr unsigned kMostRange = 17;      // bits of a plane's range
constexpr int kWorkBits = 14;            // bits of a tile's range on which the transform works
constexpr size_t kCodedBlock = 32;       // positions of a grid whose coefficients may all be zero
constexpr uint32_t kLikely = 28672;      // of 2^15: chance that such a block is active where its parents are not all zero
constexpr size_t kBlock = 64;            // where the restoration's strength may change
constexpr unsigned kStrengths = 4;       // 0, 1/2, 1, 3/2
constexpr size_t kPixel = nn::kBeside;   // elements of features and of parameters, six of which are used

inline size_t halved(size_t n, unsigned times) { return ((n - 1) >> times) + 1; }

// Bits more or fewer, with rounding.
struct Shift {
  explicit Shift(int up)
      : factor(1 << std::max(up, 0)), half(up < 0 ? 1 << (-up - 1) : 0), right(static_cast<unsigned>(std::max(-up, 0))) {}
  int32_t operator()(int32_t v) const { return (v * factor + half) >> right; }
  int32_t factor, half;
  unsigned right;
};

// What a plane lies between, and how many bits finer than samples (or coarser) the transform keeps it: the same
// for all planes of a tile, so that a step is the same error in each.
struct Range {
  int32_t low = 0, high = 0;
  int fraction = 0;
  int32_t middle() const { return static_cast<int32_t>((int64_t{low} + high + 1) >> 1); }
};

inline Range range_of(const int32_t* samples, size_t n, int fraction = 0) {
  Range range{samples[0], samples[0], fraction};
  auto kernel = [&] {
    int32_t low = samples[0], high = samples[0];
    for (size_t i = 0; i < n; ++i) {
      low = std::min(low, samples[i]);
      high = std::max(high, samples[i]);
    }
    range.low = low;
    range.high = high;
  };
  run_widest(kernel, kernel);
  return range;
}

// The sample of a value of the transform.
class Sampler {
 public:
  explicit Sampler(const Range& r) : shift_(-r.fraction), middle_(r.middle()), low_(r.low), high_(r.high) {}
  int32_t operator()(int32_t work) const { return std::clamp(shift_(std::clamp(work, -kBeyond, kBeyond)) + middle_, low_, high_); }

 private:
  static constexpr int32_t kBeyond = 1 << 27;  // every range, with any fraction: what is further is clamped all the same
  Shift shift_;
  int32_t middle_, low_, high_;
};

// Which blocks of a grid hold anything, and rectangles that cover those: where nothing is, no network runs.
struct Blocks {
  size_t side, height, width;   // of a block; of the grid
  std::vector<uint8_t> active;

  size_t rows() const { return (height - 1) / side + 1; }
  size_t columns() const { return (width - 1) / side + 1; }
  bool any() const { return std::find(active.begin(), active.end(), 1) != active.end(); }
  bool all() const { return std::find(active.begin(), active.end(), 0) == active.end(); }
  void shape(size_t block_side, size_t h, size_t w) {
    side = block_side;
    height = h;
    width = w;
    active.assign(rows() * columns(), 0);
  }
};
struct Region {
  size_t top, bottom, left, right;  // the last two of each pair are one past
  size_t rows() const { return bottom - top; }
  size_t columns() const { return right - left; }
};

// Regions that cover the active blocks: runs of each row of blocks, joined where one region costs no more than
// two. rim: what a network computes around each in vain.
inline void cover(const Blocks& b, size_t rim, std::vector<Region>& regions) {
  constexpr size_t kStart = 8;  // columns that beginning a row costs
  const auto cost = [&](const Region& r) { return (r.rows() + 2 * rim) * (r.columns() + 2 * rim + kStart); };
  const auto join = [&](Region& into, const Region& r) {
    const Region both{into.top, r.bottom, std::min(into.left, r.left), std::max(into.right, r.right)};
    if (cost(both) > cost(into) + cost(r)) return false;
    into = both;
    return true;
  };
  regions.clear();
  for (size_t y = 0; y < b.rows(); ++y) {
    const uint8_t* row = b.active.data() + y * b.columns();
    const size_t above = regions.size();
    for (size_t x = 0; x < b.columns(); ++x) {
      if (row[x] == 0) continue;
      const size_t first = x;
      while (x < b.columns() && row[x] != 0) ++x;
      const Region r{y * b.side, std::min((y + 1) * b.side, b.height), first * b.side, std::min(x * b.side, b.width)};
      if (regions.size() == above || !join(regions.back(), r)) regions.push_back(r);
    }
    // What is new, with what ends above it.
    for (size_t i = above; i < regions.size();) {
      const auto joined = std::find_if(regions.begin(), regions.begin() + static_cast<ptrdiff_t>(above),
                                       [&](Region& r) { return r.bottom == regions[i].top && join(r, regions[i]); });
      if (joined == regions.begin() + static_cast<ptrdiff_t>(above)) {
        ++i;
      } else {
        regions.erase(regions.begin() + static_cast<ptrdiff_t>(i));
      }
    }
  }
}

// A region and `rim` positions around it, as far as there are any.
inline Region widened(const Region& r, size_t rim, size_t height, size_t width) {
  return {r.top - std::min(r.top, rim), std::min(r.bottom + rim, height), r.left - std::min(r.left, rim), std::min(r.right + rim, width)};
}

// What one plane needs; kept from plane to plane.
struct PlaneBuffers {
  struct Level {
    size_t height, width;                 // of its grid: of LL
    std::vector<int32_t> low;             // LL: analysed, then reconstructed
    std::vector<int32_t> bands[kBands];   // dequantised
    std::vector<int32_t> analysed[kBands];  // for encoders
    std::vector<int16_t> size[kBands];    // logarithms of the magnitudes, on the grid, for the next level
    size_t band_height(size_t above, unsigned band) const { return band == 0 ? height : above / 2; }
    size_t band_width(size_t above, unsigned band) const { return band == 1 ? width : above / 2; }
  };
  size_t height = 0, width = 0;
  Level level[kLevels];
  std::vector<int32_t> work;              // the plane
  std::vector<int32_t> quantised;         // LL
  std::vector<int16_t> features, hidden, known;  // of the grid; kPixel elements a position, or as `hidden` needs
  std::vector<int16_t> parameters[2];     // of the passes; encoders may need the first's again
  std::vector<int16_t> rows, centres;     // of one row's parameters: of `Model::rows`, and what they are around
  std::vector<uint32_t> sums;             // of one row of the grid and those beside it
  std::vector<int32_t> differences;
  std::vector<int16_t> unshuffled, correction;
  std::vector<int32_t> means;             // of blocks of 8 x 8, for each column
  Blocks blocks, coarser;
  std::vector<Region> regions;
  nn::Workspace network;

  void shape(size_t h, size_t w, bool encodes) {
    height = h;
    width = w;
    work.resize(h * w);
    for (unsigned l = 0; l < kLevels; ++l) {
      Level& v = level[l];
      v.height = halved(h, l + 1);
      v.width = halved(w, l + 1);
      v.low.resize(v.height * v.width);
      for (unsigned b = 0; b < kBands; ++b) {
        v.bands[b].resize(v.band_height(halved(h, l), b) * v.band_width(halved(w, l), b));
        if (encodes) v.analysed[b].resize(v.bands[b].size());
        if (l > 0) v.size[b].resize(v.height * v.width);
      }
    }
  }
  size_t above_height(unsigned l) const { return halved(height, l); }
  size_t above_width(unsigned l) const { return halved(width, l); }
  int32_t* above(unsigned l) { return l == 0 ? work.data() : level[l - 1].low.data(); }
  Rows band_rows(std::vector<int32_t>& band, unsigned l, unsigned b) { return {band.data(), level[l].band_width(above_width(l), b)}; }
};

// All decompositions of b.work, for encoders.
inline void analyse(PlaneBuffers& b) {
  for (unsigned l = 0; l < kLevels; ++l) {
    PlaneBuffers::Level& v = b.level[l];
    const size_t h = b.above_height(l), w = b.above_width(l);
    wavelet97::analyse({b.above(l), w}, h, w, {v.low.data(), v.width}, b.band_rows(v.analysed[0], l, 0), b.band_rows(v.analysed[1], l, 1), b.band_rows(v.analysed[2], l, 2));
  }
}

// The chances of one coefficient.
struct Chances {
  const Row* row;
  int32_t centre;
};

// To a coefficient that can be sent.
inline int32_t rounded(double value) {
  return static_cast<int32_t>(std::clamp<double>(std::floor(value + 0.5), -kMostQuantised, kMostQuantised));
}

class Decoding {
 public:
  static constexpr bool kEncodes = false;
  explicit Decoding(SymbolReader& in) : in_(&in) {}

  int32_t coefficient(const Chances& c) {
    const unsigned t = in_->token(*c.row);
    int32_t token = static_cast<int32_t>(t) - kMostToken;
    if (t == kEscape) {
      const unsigned n = in_->raw(5);
      if (n > 20) throw Corrupt("a coefficient is out of range");
      token = unzigzag((1u << n | in_->raw(n)) - 1);
    }
    const unsigned bits = c.row->raw_bits;
    const int64_t q = c.centre + int64_t{token} * (1 << bits) + in_->raw(bits);
    if (q < -kMostQuantised || q > kMostQuantised) throw Corrupt("a coefficient is out of range");
    return static_cast<int32_t>(q);
  }
  bool active(bool, uint32_t ones) { return in_->bit(ones); }

 private:
  SymbolReader* in_;
};

class Encoding {
 public:
  static constexpr bool kEncodes = true;
  // slope: bits that a squared error of one step is worth.
  Encoding(const Model& model, SymbolWriter& out, double slope) : m_(&model), out_(&out), slope_(slope) {}

  // value: the coefficient, in steps; spent: where bits and errors are added up.
  int32_t coefficient(const Chances& c, double value, double& spent) {
    const int32_t nearest = rounded(value);
    int32_t best = 0;
    double least = 1e30;
    auto consider = [&](int32_t q) {
      const double e = value - q, j = bits(c, q) + slope_ * e * e;
      if (j < least) {
        least = j;
        best = q;
      }
    };
    consider(nearest);
    if (nearest != 0) {
      consider(nearest > 0 ? nearest - 1 : nearest + 1);
      consider(0);
    }
    spent += least;
    write(c, best);
    return best;
  }
  static int32_t rounded(double value) {
    const int32_t towards_zero = static_cast<int32_t>(value + 0.5);
    return towards_zero - (towards_zero > value + 0.5 ? 1 : 0);
  }
  // As it is: where rounding would be seen.
  void write(const Chances& c, int32_t q) {
    const int32_t e = q - c.centre, token = e >> c.row->raw_bits;
    const unsigned t = static_cast<unsigned>(token + kMostToken);
    if (token < -kMostToken || token > kMostToken || c.row->start[t + 1] == c.row->start[t]) {
      put(*c.row, kEscape);
      const uint32_t v = zigzag(token) + 1;
      out_->put_raw(bit_length(v) - 1, 5);
      out_->put_raw(v, bit_length(v) - 1);
    } else {
      put(*c.row, t);
    }
    out_->put_raw(static_cast<uint32_t>(e), c.row->raw_bits);
  }
  bool active(bool value, uint32_t ones) {
    out_->put_bit(value, ones);
    return value;
  }
  size_t mark() const { return out_->size(); }
  void back(size_t mark) { out_->truncate(mark); }
  double slope() const { return slope_; }

 private:
  double bits(const Chances& c, int32_t q) const {
    const Row& row = *c.row;
    const std::array<float, kTokens>& cost = m_->costs[static_cast<size_t>(c.row - m_->rows.data())];
    const int32_t token = (q - c.centre) >> row.raw_bits;
    const unsigned t = static_cast<unsigned>(token + kMostToken);
    if (token >= -kMostToken && token <= kMostToken && row.start[t + 1] != row.start[t]) return static_cast<double>(cost[t]) + row.raw_bits;
    return static_cast<double>(cost[kEscape]) + 5 + (bit_length(zigzag(token) + 1) - 1) + row.raw_bits;
  }
  void put(const Row& row, unsigned t) { out_->put(row.start[t], row.start[t + 1] - uint32_t{row.start[t]}); }

  const Model* m_;
  SymbolWriter* out_;
  double slope_;
};

template <class Coder>
class PlaneCoder {
 public:
  PlaneCoder(const Model& model, int64_t step, PlaneBuffers& buffers, Coder coder) : m_(model), step_(step), b_(buffers), coder_(coder) {}

  // From b.work (encoders) to b.work: what the decoder has before restoration.
  void code() {
    if constexpr (Coder::kEncodes) analyse(b_);
    code_low();
    for (unsigned l = kLevels; l-- > 0;) {
      code_level(l);
      synthesise(l);
    }
  }

 private:
  using Level = PlaneBuffers::Level;

  void synthesise(unsigned l) {
    Level& v = b_.level[l];
    const size_t h = b_.above_height(l), w = b_.above_width(l);
    wavelet97::synthesise({v.low.data(), v.width}, b_.band_rows(v.bands[0], l, 0), b_.band_rows(v.bands[1], l, 1), b_.band_rows(v.bands[2], l, 2), h, w, {b_.above(l), w});
  }

  static int32_t dequantise(int32_t q, int64_t step) { return static_cast<int32_t>((q * step + 32) >> 6); }

  // LL: the median prediction of LOCO-I (Weinberger et al. 2000), a scale from the differences around.
  void code_low() {
    Level& v = b_.level[kLevels - 1];
    const int64_t step = m_.band_step(step_, kLevels, 0);
    std::vector<int32_t>& q = b_.quantised;
    q.resize(v.height * v.width);
    for (size_t y = 0; y < v.height; ++y) {
      for (size_t x = 0; x < v.width; ++x) {
        const size_t i = y * v.width + x;
        const int32_t west = x > 0 ? q[i - 1] : y > 0 ? q[i - v.width] : 0;
        const int32_t north = y > 0 ? q[i - v.width] : west;
        const int32_t corner = y > 0 && x > 0 ? q[i - v.width - 1] : north;
        const int32_t east = y > 0 && x + 1 < v.width ? q[i - v.width + 1] : north;
        const int32_t least = std::min(west, north), most = std::max(west, north);
        const int32_t mean = corner >= most ? least : corner <= least ? most : west + north - corner;
        const int64_t around = std::abs(int64_t{north} - corner) + std::abs(int64_t{west} - corner) + std::abs(int64_t{east} - north);
        const size_t scale = m_.low_scale[static_cast<size_t>(std::min<int64_t>(around, 255))];
        const Chances c{&m_.rows[scale * kFractions + kFractions / 2], mean};
        if constexpr (Coder::kEncodes) {
          q[i] = rounded(static_cast<double>(v.low[i]) * 64 / static_cast<double>(step));
          coder_.write(c, q[i]);
        } else {
          q[i] = coder_.coefficient(c);
        }
        v.low[i] = dequantise(q[i], step);
      }
    }
  }

  void code_level(unsigned l) {
    Level& v = b_.level[l];
    int64_t steps[kBands];
    for (unsigned b = 0; b < kBands; ++b) steps[b] = m_.band_step(step_, l, b);
    std::swap(b_.blocks, b_.coarser);
    b_.blocks.shape(kCodedBlock, v.height, v.width);
    size_t mark = 0;
    if constexpr (Coder::kEncodes) {
      find_active(l, steps);
      mark = coder_.mark();
    }
    activity(l);
    if (b_.blocks.any()) {
      first_network(l, steps[0]);
      passes(l, steps);
    } else {
      clear(v);
    }
    if constexpr (Coder::kEncodes) {
      if (!drop_blocks()) return;
      coder_.back(mark);
      activity(l);
      cover(b_.blocks, m_.first(l != 0).reach(), b_.regions);
      passes(l, steps);
    }
  }

  // Codes which blocks are active: likely those with anything in the coarser bands.
  void activity(unsigned l) {
    Blocks& k = b_.blocks;
    for (size_t by = 0; by < k.rows(); ++by)
      for (size_t bx = 0; bx < k.columns(); ++bx) {
        uint8_t& active = k.active[by * k.columns() + bx];
        active = coder_.active(active != 0, likely(l, by, bx) ? kLikely : kSlots - kLikely) ? 1 : 0;
      }
  }
  bool likely(unsigned l, size_t by, size_t bx) const {
    if (l + 1 == kLevels) return true;
    if (b_.coarser.active[by / 2 * b_.coarser.columns() + bx / 2] == 0) return false;
    const Level& coarser = b_.level[l + 1];
    constexpr size_t kHalf = kCodedBlock / 2;
    const size_t right = std::min((bx + 1) * kHalf, coarser.width), bottom = std::min((by + 1) * kHalf, coarser.height);
    int16_t any = 0;
    for (size_t y = by * kHalf; y < bottom; ++y)
      for (const std::vector<int16_t>& size : coarser.size)
        for (size_t x = bx * kHalf; x < right; ++x) any |= size[y * coarser.width + x];
    return any != 0;
  }

  // Blocks in which any coefficient is at least half a step, and what their coefficients are worth.
  void find_active(unsigned l, const int64_t* steps) {
    const Level& v = b_.level[l];
    Blocks& k = b_.blocks;
    zero_.assign(k.active.size(), 0);
    spent_.assign(k.active.size(), 0);
    for (unsigned b = 0; b < kBands; ++b) {
      const double inverse = 64.0 / static_cast<double>(steps[b]);
      int32_t half = static_cast<int32_t>(0.5 / inverse) - 1;
      while (half * inverse < 0.5) ++half;
      const size_t h = v.band_height(b_.above_height(l), b), w = v.band_width(b_.above_width(l), b);
      for (size_t y0 = 0; y0 < h; y0 += kCodedBlock)
        for (size_t x0 = 0; x0 < w; x0 += kCodedBlock) {
          const Energy e = energy({y0, std::min(y0 + kCodedBlock, h), x0, std::min(x0 + kCodedBlock, w)}, v.analysed[b].data(), w);
          const size_t block = y0 / kCodedBlock * k.columns() + x0 / kCodedBlock;
          zero_[block] += static_cast<double>(e.squares) * inverse * inverse * coder_.slope();
          k.active[block] |= e.most >= half;
        }
    }
  }

  struct Energy {
    int64_t squares;
    int32_t most;
  };
  static Energy energy(const Region& r, const int32_t* band, size_t width) {
    Energy e{0, 0};
    auto kernel = [&] {
      int64_t squares = 0;
      int32_t most = 0;
      for (size_t y = r.top; y < r.bottom; ++y)
        for (size_t x = r.left; x < r.right; ++x) {
          const int32_t c = band[y * width + x];
          squares += int64_t{c} * c;
          most = std::max(most, std::abs(c));
        }
      e = {squares, most};
    };
    run_widest(kernel, kernel);
    return e;
  }

  // Those blocks whose coefficients cost more than they are worth.
  bool drop_blocks() {
    bool any = false;
    for (size_t i = 0; i < zero_.size(); ++i)
      if (b_.blocks.active[i] != 0 && spent_[i] >= zero_[i]) {
        b_.blocks.active[i] = 0;
        any = true;
      }
    return any;
  }

  // What no active block writes; sizes are also beyond their bands.
  void clear(Level& v) {
    for (std::vector<int16_t>& size : v.size) std::fill(size.begin(), size.end(), int16_t{0});
    if (b_.blocks.all()) return;
    for (std::vector<int32_t>& band : v.bands) std::fill(band.begin(), band.end(), 0);
  }

  size_t hidden_step(unsigned l) const { return (m_.hidden(l != 0) + nn::kBeside - 1) / nn::kBeside * nn::kBeside; }

  // b_.hidden and the parameters of the first pass, on the regions of the active blocks.
  void first_network(unsigned l, int64_t step) {
    const Level& v = b_.level[l];
    const nn::Network& network = m_.first(l != 0);
    const size_t n = v.height * v.width, hidden = hidden_step(l), beyond = m_.second(l != 0).input_reach(0);
    grow(b_.features, n * kPixel);
    grow(b_.hidden, n * hidden);
    for (std::vector<int16_t>& p : b_.parameters) grow(p, n * kPixel + kPixel);
    cover(b_.blocks, network.reach(), b_.regions);
    for (const Region& r : b_.regions) {
      const Region inner = widened(r, beyond, v.height, v.width), all = widened(inner, network.reach(), v.height, v.width);
      features(l, step, all);
      const nn::Input in = plane<const int16_t>(b_.features, kFeatures, kPixel, v.width, all);
      const nn::Output out[2] = {plane<int16_t>(b_.hidden, m_.hidden(l != 0), hidden, v.width, inner),
                                 plane<int16_t>(b_.parameters[0], kParameters, kPixel, v.width, inner)};
      network.run(&in, out, all.rows(), all.columns(), window(inner, all), b_.network);
    }
  }

  void second_network(unsigned l) {
    const Level& v = b_.level[l];
    const nn::Network& network = m_.second(l != 0);
    for (const Region& r : b_.regions) {
      const Region all = widened(r, network.reach(), v.height, v.width);
      const nn::Input in[2] = {plane<const int16_t>(b_.hidden, m_.hidden(l != 0), hidden_step(l), v.width, all),
                               plane<const int16_t>(b_.known, kFeatures, kPixel, v.width, all)};
      const nn::Output out = plane<int16_t>(b_.parameters[1], kParameters, kPixel, v.width, r);
      network.run(in, &out, all.rows(), all.columns(), window(r, all), b_.network);
    }
  }

  // Part of a grid that is `width` wide, its channels side by side.
  template <class T>
  static nn::Planes<T> plane(std::vector<int16_t>& of, size_t channels, size_t step, size_t width, const Region& r) {
    return {of.data() + (r.top * width + r.left) * step, channels, r.rows(), r.columns(), 1, static_cast<ptrdiff_t>(step * width), static_cast<ptrdiff_t>(step), step - channels};
  }
  static nn::Window window(const Region& r, const Region& all) {
    return {r.top - all.top, r.bottom - all.top, r.left - all.left, r.right - all.left};
  }
  template <class T>
  static void grow(std::vector<T>& v, size_t n) {
    if (v.size() < n) v.resize(n);
  }

  void passes(unsigned l, const int64_t* steps) {
    Level& v = b_.level[l];
    clear(v);
    grow(b_.known, v.height * v.width * kPixel);
    for (const Region& r : b_.regions) {
      const Region all = widened(r, m_.second(l != 0).reach(), v.height, v.width);
      for (size_t y = all.top; y < all.bottom; ++y) std::fill_n(b_.known.data() + (y * v.width + all.left) * kPixel, all.columns() * kPixel, int16_t{0});
    }
    pass<false>(l, steps);
    second_network(l);
    pass<true>(l, steps);
  }

  // What LL shows of each position, and how large the coarser coefficients are.
  void features(unsigned l, int64_t step, const Region& r) {
    const Level& v = b_.level[l];
    grow(b_.sums, v.width + 2);
    grow(b_.differences, v.width);
    const uint32_t reciprocal = static_cast<uint32_t>((int64_t{1} << 30) / (9 * step));
    for (size_t y = r.top; y < r.bottom; ++y) {
      auto kernel = [&] { differences(v, y, r, reciprocal); };
      run_widest(kernel, kernel);
      features_row(l, y, r);
    }
  }

  // b_.differences: LL less the mean of nine around, in sixteenths of the step, as far as kLogs goes: of
  // d * reciprocal / 2^20, rounded, with 32 bits.
  void differences(const Level& v, size_t y, const Region& r, uint32_t reciprocal) {
    constexpr uint32_t kHalf = 1u << 19, kMost = kLogs - 1;
    const size_t w = v.width;
    const int32_t *above = v.low.data() + (y > 0 ? y - 1 : 0) * w, *row = v.low.data() + y * w, *below = v.low.data() + std::min(y + 1, v.height - 1) * w;
    const auto sum = [&](size_t x) { return static_cast<uint32_t>(above[x]) + static_cast<uint32_t>(row[x]) + static_cast<uint32_t>(below[x]); };
    uint32_t* sums = b_.sums.data() + 1;
    for (size_t x = r.left; x < r.right; ++x) sums[x] = sum(x);
    sums[static_cast<ptrdiff_t>(r.left) - 1] = sum(r.left > 0 ? r.left - 1 : 0);
    sums[r.right] = sum(std::min(r.right, w - 1));
    const uint32_t most = (~uint32_t{0} - kHalf) / reciprocal;
    for (size_t x = r.left; x < r.right; ++x) {
      const int32_t d = static_cast<int32_t>(9 * static_cast<uint32_t>(row[x]) - (sums + x)[-1] - sums[x] - sums[x + 1]);
      const uint32_t negative = d < 0 ? 1 : 0, size = negative != 0 ? 0 - static_cast<uint32_t>(d) : static_cast<uint32_t>(d);
      const int32_t scaled = static_cast<int32_t>(size > most ? kMost : std::min((size * reciprocal + kHalf - negative) >> 20, kMost));
      b_.differences[x] = negative != 0 ? -scaled : scaled;
    }
  }

  void features_row(unsigned l, size_t y, const Region& r) {
    const Level& v = b_.level[l];
    const int16_t* coarser[kBands] = {};
    if (l + 1 < kLevels)
      for (unsigned b = 0; b < kBands; ++b) coarser[b] = b_.level[l + 1].size[b].data() + (y >> 1) * b_.level[l + 1].width;
    int16_t* to = b_.features.data() + (y * v.width + r.left) * kPixel;
    for (size_t x = r.left; x < r.right; ++x, to += kPixel) {
      const int32_t d = b_.differences[x];
      const int16_t size = m_.log[static_cast<size_t>(std::abs(d))];
      to[0] = static_cast<int16_t>(d < 0 ? -size : size);
      to[1] = static_cast<int16_t>(2 * std::clamp(d, -128, 128));
      for (unsigned b = 0; b < kBands; ++b) to[2 + b] = coarser[0] != nullptr ? coarser[b][x >> 1] : int16_t{0};
      to[5] = static_cast<int16_t>(32 * l);
    }
  }

  // b_.rows and b_.centres: what a row's parameters say, at the place of each mean.
  void read_parameters(const Level& v, const std::vector<int16_t>& parameters, size_t y) {
    const size_t n = v.width * kPixel;
    grow(b_.rows, n);
    grow(b_.centres, n);
    auto kernel = [&] {
      const int16_t *mean = parameters.data() + y * n, *scale = mean + kBands;
      int16_t *row = b_.rows.data(), *centre = b_.centres.data();
      constexpr int16_t kLeast = -kMostMean, kMost = kMostMean, kMostScale = kScales - 1;
      for (size_t i = 0; i < n; ++i) {
        const int16_t m = static_cast<int16_t>(std::clamp(mean[i], kLeast, kMost) + 4);
        centre[i] = static_cast<int16_t>(m >> 3);
        row[i] = static_cast<int16_t>((std::clamp(scale[i], int16_t{0}, kMostScale) << 3) + (m & 7));
      }
    };
    run_widest(kernel, kernel);
  }

  template <bool second>
  void pass(unsigned l, const int64_t* steps) {
    const Level& v = b_.level[l];
    const Blocks& k = b_.blocks;
    for (size_t y = 0; y < v.height; ++y) {
      const size_t first = y / kCodedBlock * k.columns();
      const uint8_t* active = k.active.data() + first;
      if (std::find(active, active + k.columns(), 1) == active + k.columns()) continue;
      read_parameters(v, b_.parameters[second ? 1 : 0], y);
      for (unsigned b = 0; b < kBands; ++b) {
        if (y >= v.band_height(b_.above_height(l), b)) continue;
        const size_t w = v.band_width(b_.above_width(l), b);
        for (size_t x = 0; x < w; x += kCodedBlock)
          if (active[x / kCodedBlock] != 0) segment<second>(l, b, steps[b], y, x, std::min(x + kCodedBlock, w), first + x / kCodedBlock);
      }
    }
  }

  // A band's coefficients of one pass in a row of a block.
  template <bool second>
  void segment(unsigned l, unsigned b, int64_t step, size_t y, size_t left, size_t right, size_t block) {
    Level& v = b_.level[l];
    const size_t row = y * v.band_width(b_.above_width(l), b);
    int32_t* to = v.bands[b].data() + row;
    int16_t* size = l > 0 ? v.size[b].data() + y * v.width : nullptr;
    int16_t* known = b_.known.data() + y * v.width * kPixel + b;
    Coder coder = coder_;
    [[maybe_unused]] const double inverse = 64.0 / static_cast<double>(step);
    [[maybe_unused]] double spent = 0;
    if constexpr (Coder::kEncodes) spent = spent_[block];
    // HL and HH begin with the odd positions, LH with the even ones.
    for (size_t x = left + ((y + (b == 1 ? 0 : 1) + (second ? 1 : 0)) & 1); x < right; x += 2) {
      const Chances c{&m_.rows[static_cast<uint16_t>(b_.rows[x * kPixel + b])], b_.centres[x * kPixel + b]};
      int32_t q;
      if constexpr (Coder::kEncodes) {
        q = coder.coefficient(c, v.analysed[b][row + x] * inverse, spent);
      } else {
        q = coder.coefficient(c);
      }
      to[x] = dequantise(q, step);
      const int16_t magnitude = m_.magnitude[std::min(static_cast<size_t>(std::abs(q)), m_.magnitude.size() - 1)];
      if (l > 0) size[x] = magnitude;
      if (!second) {
        known[x * kPixel] = static_cast<int16_t>(q < 0 ? -magnitude : magnitude);
        known[x * kPixel + kBands] = magnitude;
      }
    }
    if constexpr (Coder::kEncodes) spent_[block] = spent;
  }

  const Model& m_;
  int64_t step_;
  PlaneBuffers& b_;
  Coder coder_;
  std::vector<double> zero_, spent_;  // by block, for encoders: what coding nothing costs, and what coding cost
};

namespace detail {

// The mean of 8 x 8 samples, those at the border again beyond it.
inline int32_t mean_of_block(const PlaneBuffers& b, size_t y0, size_t x0) {
  int64_t sums[8] = {};
  for (size_t y = y0; y < y0 + 8; ++y) {
    const int32_t* row = b.work.data() + std::min(y, b.height - 1) * b.width;
    if (x0 + 8 <= b.width) {
      for (size_t i = 0; i < 8; ++i) sums[i] += row[x0 + i];
    } else {
      for (size_t i = 0; i < 8; ++i) sums[i] += row[std::min(x0 + i, b.width - 1)];
    }
  }
  int64_t sum = 32;
  for (const int64_t s : sums) sum += s;
  return static_cast<int32_t>(sum >> 6);
}

// b.unshuffled: the plane without the means of blocks of 8 x 8, in quarters of the step: of difference *
// reciprocal / 2^20, rounded and clamped, with 32 bits.
inline void flatten(PlaneBuffers& b, const Region& r, int32_t reciprocal) {
  constexpr int32_t kMost = 1023;
  const int32_t beyond = (kMost + 1) * (1 << 20) / reciprocal + 1;
  const auto quarters = [=](int32_t v, int32_t mean) {
    const int32_t d = static_cast<int32_t>(static_cast<uint32_t>(v) - static_cast<uint32_t>(mean));
    const bool wrapped = ((v ^ mean) & (v ^ d)) < 0;
    const int32_t bounded = wrapped ? (v < 0 ? -beyond : beyond) : std::clamp(d, -beyond, beyond);
    return static_cast<int16_t>(std::clamp((bounded * reciprocal + (1 << 19)) >> 20, -kMost, kMost));
  };
  b.means.resize(b.width + 8);
  for (size_t y0 = r.top & ~size_t{7}; y0 < r.bottom; y0 += 8) {
    for (size_t x0 = r.left & ~size_t{7}; x0 < r.right; x0 += 8) std::fill_n(b.means.data() + x0, 8, mean_of_block(b, y0, x0));
    for (size_t y = std::max(y0, r.top); y < std::min(y0 + 8, r.bottom); ++y)
      for (size_t x = r.left; x < r.right; ++x) b.unshuffled[y * b.width + x] = quarters(b.work[y * b.width + x], b.means[x]);
  }
}

}  // namespace detail

// b.correction: what the restoration adds at full strength, in 256ths of the step, where b.blocks (of the grid of
// quarters) are active.
inline void restoration(const Model& m, int64_t step, PlaneBuffers& b) {
  const size_t h = b.height, w = b.width, rim = m.restoration().reach();
  b.unshuffled.resize(h * w);
  b.correction.resize(h * w);
  cover(b.blocks, rim, b.regions);
  for (const Region& r : b.regions) {
    const Region all{4 * (r.top - std::min(r.top, rim)), std::min(4 * (r.bottom + rim), h), 4 * (r.left - std::min(r.left, rim)),
                     std::min(4 * (r.right + rim), w)};
    auto kernel = [&] { detail::flatten(b, all, static_cast<int32_t>((int64_t{1} << 28) / step)); };
    run_widest(kernel, kernel);
    const ptrdiff_t row = static_cast<ptrdiff_t>(w);
    const nn::Input in{b.unshuffled.data() + all.top * w + all.left, 1, all.rows(), all.columns(), 0, row, 1};
    const Region inner{4 * r.top, std::min(4 * r.bottom, h), 4 * r.left, std::min(4 * r.right, w)};
    const nn::Output out{b.correction.data() + inner.top * w + inner.left, 1, inner.rows(), inner.columns(), 0, row, 1};
    const size_t top = all.top / 4, left = all.left / 4;
    m.restoration().run(&in, &out, halved(all.rows(), 2), halved(all.columns(), 2), {r.top - top, r.bottom - top, r.left - left, r.right - left}, b.network);
  }
}

// What a correction adds; strength: 0 to 3 halves. Of correction * step / 2^16, rounded, with 32 bits.
class Restorer {
 public:
  Restorer(unsigned strength, int64_t step)
      : doubled_(static_cast<int32_t>(2 * strength)), high_(static_cast<int32_t>(step >> 16)), low_(static_cast<int32_t>(step & 0xFFFF)) {}
  int32_t operator()(int32_t work, int16_t correction) const {
    const int32_t c = std::clamp<int32_t>(correction, -256, 256) * doubled_;
    return static_cast<int32_t>(static_cast<uint32_t>(work) + static_cast<uint32_t>(c * high_ + ((c * low_ + (1 << 15)) >> 16)));
  }

 private:
  int32_t doubled_, high_, low_;
};

}  // namespace tilevault::lossy
