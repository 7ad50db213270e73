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

inline size_t halved(size_t n, unsigned times) { return ((n - 1) >> times) + 1; }

inline unsigned bits_of(uint32_t v) { return v == 0 ? 0 : 32 - static_cast<unsigned>(__builtin_clz(v)); }

// What a plane lies between, and how many bits finer than samples (or coarser) the transform keeps it: the same
// for all planes of a tile, so that a step is the same error in each.
struct Range {
  int32_t low = 0, high = 0;
  int fraction = 0;
  int32_t middle() const { return static_cast<int32_t>((int64_t{low} + high + 1) >> 1); }
  int32_t to_work(int32_t v) const {
    v -= middle();
    return fraction >= 0 ? v * (1 << fraction) : (v + (1 << (-fraction - 1))) >> -fraction;
  }
  int32_t to_sample(int32_t v) const {
    const int64_t s = fraction > 0 ? (int64_t{v} + (1 << (fraction - 1))) >> fraction : int64_t{v} * (1 << -fraction);
    return static_cast<int32_t>(std::clamp<int64_t>(s + middle(), low, high));
  }
};

// Which blocks of a grid hold anything, and rectangles that cover those: where nothing is, no network runs.
struct Blocks {
  size_t side, height, width;   // of a block; of the grid
  std::vector<uint8_t> active;

  size_t rows() const { return (height - 1) / side + 1; }
  size_t columns() const { return (width - 1) / side + 1; }
  bool any() const { return std::find(active.begin(), active.end(), 1) != active.end(); }
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

// A region for each row of blocks, rows that fit together in one.
inline void cover(const Blocks& b, std::vector<Region>& regions) {
  regions.clear();
  for (size_t y = 0; y < b.rows(); ++y) {
    const uint8_t* row = b.active.data() + y * b.columns();
    const uint8_t* first = std::find(row, row + b.columns(), 1);
    if (first == row + b.columns()) continue;
    size_t last = b.columns();
    while (row[last - 1] == 0) --last;
    Region r{y * b.side, std::min((y + 1) * b.side, b.height), static_cast<size_t>(first - row) * b.side, std::min(last * b.side, b.width)};
    if (!regions.empty() && regions.back().bottom == r.top) {
      Region& before = regions.back();
      const Region both{before.top, r.bottom, std::min(before.left, r.left), std::max(before.right, r.right)};
      // A quarter more than needed costs less than two rims.
      if (4 * both.rows() * both.columns() <= 5 * (before.rows() * before.columns() + r.rows() * r.columns())) {
        before = both;
        continue;
      }
    }
    regions.push_back(r);
  }
}

// What one plane needs; kept from plane to plane.
struct PlaneBuffers {
  struct Level {
    size_t height, width;                 // of its grid: of LL
    std::vector<int32_t> low;             // LL: analysed, then reconstructed
    std::vector<int32_t> bands[kBands];   // what the encoder analysed, then dequantised
    std::vector<int16_t> size[kBands];    // logarithms of the magnitudes, on the grid, for the next level
    size_t band_height(size_t above, unsigned band) const { return band == 0 ? height : above / 2; }
    size_t band_width(size_t above, unsigned band) const { return band == 1 ? width : above / 2; }
  };
  size_t height = 0, width = 0;
  Level level[kLevels];
  std::vector<int32_t> work;              // the plane
  std::vector<int16_t> features, hidden, parameters, known, unshuffled, correction;
  std::vector<int16_t> parts[2];          // of outputs, with their rims
  Blocks blocks;
  std::vector<Region> regions;
  nn::Workspace network;

  void shape(size_t h, size_t w) {
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
        v.size[b].assign(v.height * v.width, 0);
      }
    }
  }
  size_t above_height(unsigned l) const { return halved(height, l); }
  size_t above_width(unsigned l) const { return halved(width, l); }
  int32_t* above(unsigned l) { return l == 0 ? work.data() : level[l - 1].low.data(); }
};

// The chances of one coefficient.
struct Chances {
  const Row* row;
  int32_t centre;
  unsigned raw;
  Chances(const Model& m, int mean8, int scale) {
    mean8 = std::clamp(mean8, -kMostMean, kMostMean);
    const unsigned s = static_cast<unsigned>(std::clamp(scale, 0, static_cast<int>(kScales) - 1));
    centre = (mean8 + 4) >> 3;
    row = &m.rows[s * kFractions + static_cast<unsigned>(mean8 - 8 * centre + 4)];
    raw = m.raw_bits[s];
  }
};

inline uint32_t zigzag32(int32_t v) { return static_cast<uint32_t>(v) << 1 ^ static_cast<uint32_t>(v >> 31); }
inline int32_t unzigzag32(uint32_t v) { return static_cast<int32_t>(v >> 1) ^ -static_cast<int32_t>(v & 1); }
// To a coefficient that can be sent.
inline int32_t rounded(double value) {
  return static_cast<int32_t>(std::clamp<double>(std::floor(value + 0.5), -kMostQuantised, kMostQuantised));
}

class Decoding {
 public:
  static constexpr bool kEncodes = false;
  explicit Decoding(SymbolReader& in) : in_(&in) {}

  int32_t coefficient(const Chances& c, double) {
    const unsigned t = in_->token(*c.row);
    int32_t token = static_cast<int32_t>(t) - kMostToken;
    if (t == kEscape) {
      const unsigned n = in_->raw(5);
      if (n > 20) throw Corrupt("a coefficient is out of range");
      token = unzigzag32((1u << n | in_->raw(n)) - 1);
    }
    const int64_t q = c.centre + int64_t{token} * (1 << c.raw) + in_->raw(c.raw);
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
  Encoding(SymbolWriter& out, double slope) : out_(&out), slope_(slope) {}

  // value: the coefficient, in steps.
  int32_t coefficient(const Chances& c, double value) {
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
    *spent += least;
    write(c, best);
    return best;
  }
  // As it is: where rounding would be seen.
  void write(const Chances& c, int32_t q) {
    const int32_t e = q - c.centre, token = e >> c.raw;
    const unsigned t = static_cast<unsigned>(token + kMostToken);
    if (token < -kMostToken || token > kMostToken || c.row->start[t + 1] == c.row->start[t]) {
      put(*c.row, kEscape);
      const uint32_t v = zigzag32(token) + 1;
      out_->put_raw(bits_of(v) - 1, 5);
      out_->put_raw(v, bits_of(v) - 1);
    } else {
      put(*c.row, t);
    }
    out_->put_raw(static_cast<uint32_t>(e), c.raw);
  }
  bool active(bool value, uint32_t ones) {
    out_->put_bit(value, ones);
    return value;
  }
  size_t mark() const { return out_->size(); }
  void back(size_t mark) { out_->truncate(mark); }
  double slope() const { return slope_; }

  double* spent = nullptr;  // where bits and errors are added up

 private:
  static double bits(const Chances& c, int32_t q) {
    const int32_t token = (q - c.centre) >> c.raw;
    const unsigned t = static_cast<unsigned>(token + kMostToken);
    if (token >= -kMostToken && token <= kMostToken && c.row->start[t + 1] != c.row->start[t]) return static_cast<double>(c.row->cost[t]) + c.raw;
    return static_cast<double>(c.row->cost[kEscape]) + 5 + (bits_of(zigzag32(token) + 1) - 1) + c.raw;
  }
  void put(const Row& row, unsigned t) { out_->put(row.start[t], row.start[t + 1] - uint32_t{row.start[t]}); }

  SymbolWriter* out_;
  double slope_;
};

template <class Coder>
class PlaneCoder {
 public:
  PlaneCoder(const Model& model, int64_t step, PlaneBuffers& buffers, Coder coder) : m_(model), step_(step), b_(buffers), coder_(coder) {}

  // From b.work (encoders) to b.work: what the decoder has before restoration.
  void code() {
    if constexpr (Coder::kEncodes) analyse();
    code_low();
    for (unsigned l = kLevels; l-- > 0;) {
      code_level(l);
      synthesise(l);
    }
  }

 private:
  using Level = PlaneBuffers::Level;

  void analyse() {
    for (unsigned l = 0; l < kLevels; ++l) {
      Level& v = b_.level[l];
      const size_t h = b_.above_height(l), w = b_.above_width(l);
      wavelet97::analyse({b_.above(l), w}, h, w, {v.low.data(), v.width}, band_rows(v, l, 0), band_rows(v, l, 1), band_rows(v, l, 2));
    }
  }
  void synthesise(unsigned l) {
    Level& v = b_.level[l];
    const size_t h = b_.above_height(l), w = b_.above_width(l);
    wavelet97::synthesise({v.low.data(), v.width}, band_rows(v, l, 0), band_rows(v, l, 1), band_rows(v, l, 2), h, w, {b_.above(l), w});
  }
  Rows band_rows(Level& v, unsigned l, unsigned band) { return {v.bands[band].data(), v.band_width(b_.above_width(l), band)}; }

  int32_t dequantise(int32_t q, int64_t step) const { return static_cast<int32_t>((q * step + 32) >> 6); }

  // LL: the median prediction of LOCO-I (Weinberger et al. 2000), a scale from the differences around.
  void code_low() {
    Level& v = b_.level[kLevels - 1];
    const int64_t step = m_.band_step(step_, kLevels, 0);
    std::vector<int32_t>& q = quantised_;
    q.assign(v.height * v.width, 0);
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
        Chances c(m_, 0, m_.low_scale[static_cast<size_t>(std::min<int64_t>(around, 255))]);
        c.centre = mean;
        if constexpr (Coder::kEncodes) {
          q[i] = rounded(static_cast<double>(v.low[i]) * 64 / static_cast<double>(step));
          coder_.write(c, q[i]);
        } else {
          q[i] = coder_.coefficient(c, 0);
        }
        v.low[i] = dequantise(q[i], step);
      }
    }
  }

  void code_level(unsigned l) {
    Level& v = b_.level[l];
    int64_t steps[kBands];
    for (unsigned b = 0; b < kBands; ++b) steps[b] = m_.band_step(step_, l, b);
    b_.blocks.shape(kCodedBlock, v.height, v.width);
    if constexpr (Coder::kEncodes) {
      find_active(l, steps);
      const size_t mark = coder_.mark();
      if (b_.blocks.any()) {
        activity(l);
        passes(l, steps);
        if (drop_blocks()) {
          coder_.back(mark);
          activity(l);
          passes(l, steps);
        }
      } else {
        activity(l);
      }
    } else {
      activity(l);
      passes(l, steps);
    }
    if (!b_.blocks.any()) return clear(v);
    for (unsigned b = 0; b < kBands; ++b) {
      const size_t h = v.band_height(b_.above_height(l), b), w = v.band_width(b_.above_width(l), b);
      for (size_t y = 0; y < h; ++y)
        for (size_t x = 0; x < w; ++x) v.bands[b][y * w + x] = dequantise(quantised_[(y * v.width + x) * kBands + b], steps[b]);
    }
  }

  // Codes which blocks are active: likely those with anything in the coarser bands.
  void activity(unsigned l) {
    const Level& v = b_.level[l];
    const Level* coarser = l + 1 < kLevels ? &b_.level[l + 1] : nullptr;
    Blocks& k = b_.blocks;
    for (size_t by = 0; by < k.rows(); ++by)
      for (size_t bx = 0; bx < k.columns(); ++bx) {
        bool likely = coarser == nullptr;
        for (size_t y = by * kCodedBlock; !likely && y < std::min((by + 1) * kCodedBlock, v.height); y += 2)
          for (size_t x = bx * kCodedBlock; !likely && x < std::min((bx + 1) * kCodedBlock, v.width); x += 2)
            for (const std::vector<int16_t>& size : coarser->size) likely |= size[(y >> 1) * coarser->width + (x >> 1)] != 0;
        uint8_t& active = k.active[by * k.columns() + bx];
        active = coder_.active(active != 0, likely ? kLikely : kSlots - kLikely) ? 1 : 0;
      }
  }

  // Blocks in which any coefficient is at least half a step, and what their coefficients are worth.
  void find_active(unsigned l, const int64_t* steps) {
    Level& v = b_.level[l];
    Blocks& k = b_.blocks;
    zero_.assign(k.active.size(), 0);
    spent_.assign(k.active.size(), 0);
    for (unsigned b = 0; b < kBands; ++b) {
      const double inverse = 64.0 / static_cast<double>(steps[b]);
      const size_t h = v.band_height(b_.above_height(l), b), w = v.band_width(b_.above_width(l), b);
      for (size_t y = 0; y < h; ++y)
        for (size_t x = 0; x < w; ++x) {
          const double u = v.bands[b][y * w + x] * inverse;
          const size_t block = y / kCodedBlock * k.columns() + x / kCodedBlock;
          zero_[block] += u * u * coder_.slope();
          k.active[block] |= std::abs(u) >= 0.5;
        }
    }
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

  void clear(Level& v) {
    for (unsigned b = 0; b < kBands; ++b) {
      std::fill(v.bands[b].begin(), v.bands[b].end(), 0);
      std::fill(v.size[b].begin(), v.size[b].end(), int16_t{0});
    }
  }

  void passes(unsigned l, const int64_t* steps) {
    Level& v = b_.level[l];
    const size_t n = v.height * v.width, hidden = m_.hidden(l != 0);
    quantised_.assign(n * kBands, 0);
    for (unsigned b = 0; b < kBands; ++b) std::fill(v.size[b].begin(), v.size[b].end(), int16_t{0});
    if (!b_.blocks.any()) return;
    b_.features.resize(n * kFeatures);
    b_.hidden.resize(n * hidden);
    b_.parameters.resize(n * kParameters);
    b_.known.assign(n * kFeatures, 0);
    cover(b_.blocks, b_.regions);
    features(l, steps[0]);
    std::vector<int16_t>* const first[2] = {&b_.hidden, &b_.parameters};
    const size_t channels[2] = {hidden, kParameters};
    run(m_.first(l != 0), v, {{&b_.features, kFeatures}}, first, channels, 2);
    pass(l, steps, 0);
    run(m_.second(l != 0), v, {{&b_.hidden, hidden}, {&b_.known, kFeatures}}, first + 1, channels + 1, 1);
    pass(l, steps, 1);
  }

  // A network on the regions: each with a rim from which nothing but the rim depends on what is beyond.
  void run(const nn::Network& network, const Level& v, const std::vector<std::pair<const std::vector<int16_t>*, size_t>>& from,
           std::vector<int16_t>* const* to, const size_t* channels, size_t outputs) {
    const size_t rim = network.reach();
    for (const Region& r : b_.regions) {
      const Region all{r.top - std::min(r.top, rim), std::min(r.bottom + rim, v.height), r.left - std::min(r.left, rim), std::min(r.right + rim, v.width)};
      nn::Input in[2];
      nn::Output out[2];
      for (size_t i = 0; i < from.size(); ++i) {
        const size_t c = from[i].second;
        in[i] = {from[i].first->data() + (all.top * v.width + all.left) * c, c, all.rows(), all.columns(), 1, static_cast<ptrdiff_t>(c * v.width),
                 static_cast<ptrdiff_t>(c)};
      }
      for (size_t i = 0; i < outputs; ++i) {
        const size_t c = channels[i];
        b_.parts[i].resize(all.rows() * all.columns() * c);
        out[i] = {b_.parts[i].data(), c, all.rows(), all.columns(), 1, static_cast<ptrdiff_t>(c * all.columns()), static_cast<ptrdiff_t>(c)};
      }
      network.run(in, out, all.rows(), all.columns(), b_.network);
      for (size_t i = 0; i < outputs; ++i)
        for (size_t y = r.top; y < r.bottom; ++y)
          std::copy_n(b_.parts[i].data() + ((y - all.top) * all.columns() + r.left - all.left) * channels[i], r.columns() * channels[i],
                      to[i]->data() + (y * v.width + r.left) * channels[i]);
    }
  }

  int16_t log_of(int64_t sixteenths) const { return m_.log[static_cast<size_t>(std::min<int64_t>(sixteenths, kLogs - 1))]; }

  // What LL shows of each position, and how large the coarser coefficients are.
  void features(unsigned l, int64_t step) {
    Level& v = b_.level[l];
    const int64_t reciprocal = (int64_t{1} << 30) / (9 * step);
    const size_t rim = m_.first(l != 0).reach();
    size_t done = 0;
    for (const Region& r : b_.regions) {
      for (size_t y = std::max(done, r.top - std::min(r.top, rim)); y < std::min(r.bottom + rim, v.height); ++y) features_row(l, y, reciprocal);
      done = std::min(r.bottom + rim, v.height);
    }
  }

  void features_row(unsigned l, size_t y, int64_t reciprocal) {
    const Level& v = b_.level[l];
    const Level* coarser = l + 1 < kLevels ? &b_.level[l + 1] : nullptr;
    const int32_t* rows[3] = {v.low.data() + (y > 0 ? y - 1 : 0) * v.width, v.low.data() + y * v.width,
                              v.low.data() + std::min(y + 1, v.height - 1) * v.width};
    int16_t* to = b_.features.data() + y * v.width * kFeatures;
    for (size_t x = 0; x < v.width; ++x, to += kFeatures) {
      const size_t west = x > 0 ? x - 1 : 0, east = std::min(x + 1, v.width - 1);
      uint32_t sum = 0;
      for (const int32_t* r : rows) sum += static_cast<uint32_t>(r[west]) + static_cast<uint32_t>(r[x]) + static_cast<uint32_t>(r[east]);
      const int32_t difference = static_cast<int32_t>(9 * static_cast<uint32_t>(rows[1][x]) - sum);
      const int64_t d = (difference * reciprocal + (1 << 19)) >> 20;
      const int16_t size = log_of(std::abs(d));
      to[0] = static_cast<int16_t>(d < 0 ? -size : size);
      to[1] = static_cast<int16_t>(2 * std::clamp<int64_t>(d, -128, 128));
      for (unsigned b = 0; b < kBands; ++b)
        to[2 + b] = coarser != nullptr ? coarser->size[b][(y >> 1) * coarser->width + (x >> 1)] : int16_t{0};
      to[5] = static_cast<int16_t>(32 * l);
    }
  }

  void pass(unsigned l, const int64_t* steps, unsigned second) {
    Level& v = b_.level[l];
    double inverse[kBands];
    for (unsigned b = 0; b < kBands; ++b) inverse[b] = 64.0 / static_cast<double>(steps[b]);
    for (size_t y = 0; y < v.height; ++y) {
      for (unsigned b = 0; b < kBands; ++b) {
        const size_t h = v.band_height(b_.above_height(l), b), w = v.band_width(b_.above_width(l), b);
        if (y >= h) continue;
        // HL and HH begin with the odd positions, LH with the even ones.
        const size_t odd = (y + (b == 1 ? 0 : 1) + second) & 1;
        const uint8_t* active = b_.blocks.active.data() + y / kCodedBlock * b_.blocks.columns();
        for (size_t x = odd; x < w; x += 2) {
          if (active[x / kCodedBlock] == 0) {
            x = (x / kCodedBlock + 1) * kCodedBlock - 2 + odd;
            continue;
          }
          const size_t i = y * v.width + x;
          const int16_t* p = b_.parameters.data() + i * kParameters;
          double value = 0;
          if constexpr (Coder::kEncodes) {
            value = v.bands[b][y * w + x] * inverse[b];
            coder_.spent = &spent_[y / kCodedBlock * b_.blocks.columns() + x / kCodedBlock];
          }
          const int32_t q = coder_.coefficient(Chances(m_, p[b], p[kBands + b]), value);
          quantised_[i * kBands + b] = q;
          const int16_t size = log_of(16 * std::abs(int64_t{q}));
          v.size[b][i] = size;
          if (second == 0) {
            b_.known[i * kFeatures + b] = static_cast<int16_t>(q < 0 ? -size : size);
            b_.known[i * kFeatures + kBands + b] = size;
          }
        }
      }
    }
  }

  const Model& m_;
  int64_t step_;
  PlaneBuffers& b_;
  Coder coder_;
  std::vector<int32_t> quantised_;
  std::vector<double> zero_, spent_;  // by block, for encoders: what coding nothing costs, and what coding cost
};

namespace detail {

// b.unshuffled: the plane without the means of blocks of 8 x 8, in quarters of the step.
inline void flatten(PlaneBuffers& b, const Region& r, int64_t reciprocal) {
  const size_t h = b.height, w = b.width;
  for (size_t y0 = r.top & ~size_t{7}; y0 < r.bottom; y0 += 8)
    for (size_t x0 = r.left & ~size_t{7}; x0 < r.right; x0 += 8) {
      int64_t sum = 32;
      for (size_t y = y0; y < y0 + 8; ++y)
        for (size_t x = x0; x < x0 + 8; ++x) sum += b.work[std::min(y, h - 1) * w + std::min(x, w - 1)];
      const int64_t mean = sum >> 6;
      for (size_t y = y0; y < std::min(y0 + 8, h); ++y)
        for (size_t x = x0; x < std::min(x0 + 8, w); ++x)
          b.unshuffled[y * w + x] = static_cast<int16_t>(std::clamp<int64_t>(((b.work[y * w + x] - mean) * reciprocal + (1 << 19)) >> 20, -1023, 1023));
    }
}

}  // namespace detail

// b.correction: what the restoration adds at full strength, in 256ths of the step, where b.blocks (of the grid of
// quarters) are active.
inline void restoration(const Model& m, int64_t step, PlaneBuffers& b) {
  const size_t h = b.height, w = b.width, rim = m.restoration().reach();
  b.unshuffled.resize(h * w);
  b.correction.resize(h * w);
  cover(b.blocks, b.regions);
  for (const Region& r : b.regions) {
    const Region all{4 * (r.top - std::min(r.top, rim)), std::min(4 * (r.bottom + rim), h), 4 * (r.left - std::min(r.left, rim)),
                     std::min(4 * (r.right + rim), w)};
    detail::flatten(b, all, (int64_t{1} << 28) / step);
    const ptrdiff_t row = static_cast<ptrdiff_t>(w), wide = static_cast<ptrdiff_t>(all.columns());
    b.parts[0].resize(all.rows() * all.columns());
    const nn::Input in{b.unshuffled.data() + all.top * w + all.left, 1, all.rows(), all.columns(), 0, row, 1};
    const nn::Output out{b.parts[0].data(), 1, all.rows(), all.columns(), 0, wide, 1};
    m.restoration().run(&in, &out, halved(all.rows(), 2), halved(all.columns(), 2), b.network);
    const size_t right = std::min(4 * r.right, w);
    for (size_t y = 4 * r.top; y < std::min(4 * r.bottom, h); ++y)
      std::copy_n(b.parts[0].data() + (y - all.top) * all.columns() + 4 * r.left - all.left, right - 4 * r.left, b.correction.data() + y * w + 4 * r.left);
  }
}

// strength: 0 to 3 halves.
inline int32_t restored(int32_t work, int16_t correction, unsigned strength, int64_t step) {
  return static_cast<int32_t>(work + ((std::clamp<int64_t>(correction, -256, 256) * (2 * strength) * step + (1 << 15)) >> 16));
}

}  // namespace tilevault::lossy
