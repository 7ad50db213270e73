// Small convolutional networks of integers, whose outputs are the same on every machine.
//
// A network is a list of records in a blob. It works on a grid of positions: inputs are brought to the grid
// (pixel-unshuffle, or nearest upsampling), every layer keeps its size (borders replicate), outputs leave it
// (pixel-shuffle). Activations are int16 within the bounds that their layer gives, sums are int32 that cannot
// overflow: the loader adds up what every output channel could reach. A layer is
//
//     out = clamp(floor(sum / 2^shift + 1/2), low, high),
//
// whose rounding costs nothing here, since half of 2^shift hides in the bias, and is exact in float32 as long
// as sums stay below 2^22.
//
// All layers run row by row, each as far behind its sources as its kernel reaches, so that only a few rows of
// every tensor are kept and stay in the cache.
//
// The blob, little-endian: "TVNN", u16 version (1), u16 number of records; then the records. Each begins with a
// byte that says what it is. All but outputs make a tensor; tensors are numbered as they come, and sources are
// earlier tensors.
//
//     0 input      i8 factor (1; 2, 4: pixel-unshuffle; -2: nearest upsampling), u16 channels (on the grid),
//                  i16 low, i16 high: values are clamped to these
//     1 conv       u16 source, u8 size (1, 3, 5), u8 bytes per weight (1, 2), u16 channels, then by channel:
//                  u8 shift[], i32 bias[], i16 low[], i16 high[], weights [out][in][ky][kx]
//     2 depthwise  u16 source, u8 size (3, 5), u8 bytes per weight; the same arrays, weights [channel][ky][kx]
//     3 add        u16 source, u16 source, i16 low[], i16 high[]: clamp(a + b, low, high)
//     4 concat     u16 source, u16 source: the channels of both
//     5 output     u16 source, u8 factor (1; 2, 4: pixel-shuffle)
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>

#include "bits.hpp"
#include "nn_paths.hpp"

namespace tilevault::nn {

constexpr size_t kMostChannels = 128, kMostRecords = 256;
constexpr size_t kBeside = 8;                        // channels that are copied at a time where they lie side by side
constexpr unsigned kMostShift = 30;
constexpr int64_t kSumLimit = int64_t{1} << 22;      // sums that float32 carries exactly
constexpr int64_t kMostSumLimit = int64_t{1} << 30;  // sums that int32 carries, and half of any shift

// Planes of int16 in any order: steps are in elements. Where the channels of a pixel lie side by side, `spare`
// elements after them may be read and overwritten.
template <class T>
struct Planes {
  T* data;
  size_t channels, rows, columns;
  ptrdiff_t channel_step, row_step, column_step;
  size_t spare = 0;

  T* at(size_t channel, size_t row) const {
    return data + static_cast<ptrdiff_t>(channel) * channel_step + static_cast<ptrdiff_t>(row) * row_step;
  }
};
using Input = Planes<const int16_t>;
using Output = Planes<int16_t>;

// The part of the grid that is put out.
struct Window {
  size_t top, bottom, left, right;  // the last two of each pair are one past
  size_t rows() const { return bottom - top; }
  size_t columns() const { return right - left; }
};

// The rows of a run; kept from run to run, it grows to the widest.
struct Workspace {
  Line<int16_t> rows;
  std::vector<size_t> starts;  // of the tensors' rings in `rows`, at the first pixel
};

namespace detail {

enum class Kind : uint8_t { input, conv, depthwise, add, concat, output };

struct Record {
  Kind kind;
  int factor = 1;               // of inputs and outputs
  size_t source[2] = {0, 0};
  size_t sources = 0;
  size_t tensor = 0;            // what it makes
  size_t radius = 0;            // of its kernel
  size_t delay = 0;             // rows behind the inputs
  size_t reach = 0;             // how far from a position what it makes reaches in the outputs
  Packed packed;
};

struct Tensor {
  size_t channels = 0;
  std::vector<int16_t> low, high;
  size_t delay = 0;
  size_t kept = 1;              // rows
  size_t pixel() const { return padded(channels); }
};

// Reads a blob; whatever does not fit is Corrupt, with the record it was in.
class BlobReader {
 public:
  explicit BlobReader(Bytes in) : in_(in) {}
  size_t record = 0;

  [[noreturn]] void refuse(const std::string& why) const { throw Corrupt("network record " + std::to_string(record) + ": " + why); }
  const uint8_t* take(size_t n) {
    if (in_.size < n) refuse("the blob ends before its content");
    const uint8_t* p = in_.data;
    in_.data += n;
    in_.size -= n;
    return p;
  }
  int64_t number(unsigned bytes, bool is_signed) {
    const uint8_t* p = take(bytes);
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; ++i) v |= uint64_t{p[i]} << (8 * i);
    const int64_t sign = int64_t{1} << (8 * bytes - 1);
    return is_signed ? (static_cast<int64_t>(v) ^ sign) - sign : static_cast<int64_t>(v);
  }
  size_t u8() { return static_cast<size_t>(number(1, false)); }
  size_t u16() { return static_cast<size_t>(number(2, false)); }
  int16_t i16() { return static_cast<int16_t>(number(2, true)); }
  // Checked before anything of this size is allocated.
  void expect(size_t bytes) const {
    if (in_.size < bytes) refuse("the blob ends before its content");
  }
  bool empty() const { return in_.size == 0; }

 private:
  Bytes in_;
};

}  // namespace detail

class Network {
 public:
  // Checks all of the blob. Sums of every layer must stay below `limit` (at most kMostSumLimit), whatever the
  // inputs are. Throws Corrupt.
  explicit Network(Bytes blob, int64_t limit = kSumLimit, const Kernels& kernels = paths().back()) : kernels_(&kernels) {
    if (limit < 1 || limit > kMostSumLimit) throw std::invalid_argument("the limit of sums is 1 to 2^30");
    detail::BlobReader in(blob);
    in.expect(8);
    if (std::memcmp(in.take(4), "TVNN", 4) != 0) throw Corrupt("not a network");
    if (in.u16() != 1) throw Corrupt("a network of another version");
    const size_t records = in.u16();
    if (records > kMostRecords) throw Corrupt("a network of too many records");
    for (; in.record < records; ++in.record) read_record(in, limit);
    if (!in.empty()) throw Corrupt("bytes follow the end of the network");
    if (inputs_.empty() || outputs_.empty()) throw Corrupt("a network without input or output");
    plan();
  }

  size_t inputs() const { return inputs_.size(); }
  size_t outputs() const { return outputs_.size(); }
  const char* path() const { return kernels_->name; }

  // Of input or output i as the caller has it: planes, not channels of the grid.
  size_t input_channels(size_t i) const { return outside(tensors_[records_[inputs_[i]].tensor].channels, records_[inputs_[i]].factor); }
  size_t output_channels(size_t i) const {
    const detail::Record& r = records_[outputs_[i]];
    return outside(tensors_[r.source[0]].channels, r.factor);
  }
  int input_factor(size_t i) const { return records_[inputs_[i]].factor; }
  int output_factor(size_t i) const { return records_[outputs_[i]].factor; }
  // How far from a position of the grid what is put out there reaches.
  size_t reach() const { return last_; }
  // The same of input i alone.
  size_t input_reach(size_t i) const { return records_[inputs_[i]].reach; }
  // Multiplications at one position of the grid.
  size_t products() const {
    size_t n = 0;
    for (const detail::Record& r : records_)
      if (r.kind == detail::Kind::conv || r.kind == detail::Kind::depthwise)
        n += r.packed.out * r.packed.size * r.packed.size * (r.kind == detail::Kind::conv ? r.packed.in : 1);
    return n;
  }

  // Whether planes of `size` pixels go with a grid of `grid`: unshuffled ones may end anywhere in their last
  // position, those to be upsampled have half as many, rounded up.
  static bool fits(size_t size, size_t grid, int factor) {
    if (factor < 0) return size == (grid + 1) / 2;
    const size_t f = static_cast<size_t>(factor);
    return size != 0 && (size - 1) / f + 1 == grid;
  }

  // in: inputs() planes; out: outputs() planes, written completely; the grid has rows x columns positions.
  // Throws std::invalid_argument where these do not go together.
  void run(const Input* in, const Output* out, size_t rows, size_t columns, Workspace& work) const {
    run(in, out, rows, columns, {0, rows, 0, columns}, work);
  }

  // The same, of which only a window is put out: out are planes of its size, the grid being as large as it is.
  void run(const Input* in, const Output* out, size_t rows, size_t columns, const Window& window, Workspace& work) const {
    check(in, out, rows, columns, window);
    prepare(work, columns);
    const Tiles tiles(*kernels_);
    for (size_t step = 0; step < window.bottom + last_; ++step) {
      size_t input = 0, output = 0;
      for (const detail::Record& r : records_) {
        const size_t i = r.kind == detail::Kind::input ? input++ : 0, o = r.kind == detail::Kind::output ? output++ : 0;
        if (step < r.delay) continue;
        const size_t y = step - r.delay;
        if (y + r.reach < window.top || y >= std::min(window.bottom + r.reach, rows)) continue;
        if (r.kind == detail::Kind::input) {
          enter(r, in[i], y, columns, work);
        } else if (r.kind == detail::Kind::output) {
          leave(r, out[o], y, columns, window, work);
        } else {
          row(r, y, rows, columns, work);
        }
      }
    }
  }

 private:
  using Record = detail::Record;
  using Tensor = detail::Tensor;
  using Kind = detail::Kind;

  // Whatever a path needs around its rows.
  struct Tiles {
    explicit Tiles(const Kernels& k) : kernels(k) {
      if (k.begin != nullptr) k.begin();
    }
    ~Tiles() {
      if (kernels.end != nullptr) kernels.end();
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
    const Kernels& kernels;
  };

  static size_t outside(size_t channels, int factor) {
    return factor > 1 ? channels / static_cast<size_t>(factor * factor) : channels;
  }

  // Loading.

  size_t take_source(detail::BlobReader& in, Record& r) const {
    const size_t source = in.u16();
    if (source >= tensors_.size()) in.refuse("a source that is not before it");
    r.source[r.sources++] = source;
    return source;
  }

  static void check_channels(const detail::BlobReader& in, size_t channels) {
    if (channels < 1 || channels > kMostChannels) in.refuse("1 to 128 channels are allowed, found " + std::to_string(channels));
  }

  void read_record(detail::BlobReader& in, int64_t limit) {
    Record r{};
    const size_t kind = in.u8();
    if (kind > static_cast<size_t>(Kind::output)) in.refuse("unknown kind " + std::to_string(kind));
    r.kind = static_cast<Kind>(kind);
    Tensor t;
    switch (r.kind) {
      case Kind::input: read_input(in, r, t); break;
      case Kind::conv:
      case Kind::depthwise: read_convolution(in, r, t, limit); break;
      case Kind::add: read_add(in, r, t); break;
      case Kind::concat: read_concat(in, r, t); break;
      case Kind::output: read_output(in, r); break;
    }
    if (r.kind != Kind::output) {
      r.tensor = tensors_.size();
      tensors_.push_back(std::move(t));
    }
    if (r.kind == Kind::input) inputs_.push_back(records_.size());
    if (r.kind == Kind::output) outputs_.push_back(records_.size());
    records_.push_back(std::move(r));
  }

  static void read_input(detail::BlobReader& in, Record& r, Tensor& t) {
    r.factor = static_cast<int>(in.number(1, true));
    if (r.factor != 1 && r.factor != 2 && r.factor != 4 && r.factor != -2) in.refuse("unknown factor " + std::to_string(r.factor));
    t.channels = in.u16();
    check_channels(in, t.channels);
    if (r.factor > 1 && t.channels % static_cast<size_t>(r.factor * r.factor) != 0) in.refuse("channels that no unshuffling gives");
    t.low.assign(t.channels, in.i16());
    t.high.assign(t.channels, in.i16());
    if (t.low[0] > t.high[0]) in.refuse("low is above high");
  }

  static void read_bounds(detail::BlobReader& in, Tensor& t) {
    t.low.resize(t.channels);
    t.high.resize(t.channels);
    for (int16_t& v : t.low) v = in.i16();
    for (int16_t& v : t.high) v = in.i16();
    for (size_t c = 0; c < t.channels; ++c)
      if (t.low[c] > t.high[c]) in.refuse("low is above high in channel " + std::to_string(c));
  }

  void read_convolution(detail::BlobReader& in, Record& r, Tensor& t, int64_t limit) const {
    const bool dense = r.kind == Kind::conv;
    const Tensor& from = tensors_[take_source(in, r)];
    const size_t size = in.u8(), bytes = in.u8();
    if (!(size == 3 || size == 5 || (size == 1 && dense))) in.refuse("unknown kernel size " + std::to_string(size));
    if (bytes != 1 && bytes != 2) in.refuse("weights have one or two bytes, found " + std::to_string(bytes));
    t.channels = dense ? in.u16() : from.channels;
    check_channels(in, t.channels);
    const size_t inputs = dense ? from.channels : 1, each = inputs * size * size;
    in.expect(t.channels * (9 + each * bytes));
    std::vector<unsigned> shifts(t.channels);
    for (unsigned& s : shifts) {
      s = static_cast<unsigned>(in.u8());
      if (s > kMostShift) in.refuse("a shift of " + std::to_string(s));
    }
    std::vector<int32_t> biases(t.channels);
    for (int32_t& b : biases) b = static_cast<int32_t>(in.number(4, true));
    read_bounds(in, t);
    std::vector<int16_t> weights(t.channels * each);
    for (int16_t& w : weights) w = static_cast<int16_t>(in.number(static_cast<unsigned>(bytes), true));
    for (size_t o = 0; o < t.channels; ++o) {
      int64_t most = std::llabs(int64_t{biases[o]});
      for (size_t i = 0; i < each; ++i) {
        const size_t c = dense ? i / (size * size) : o;
        most += std::abs(int64_t{weights[o * each + i]}) * std::max(std::abs(int64_t{from.low[c]}), std::abs(int64_t{from.high[c]}));
      }
      if (most >= limit)
        in.refuse("channel " + std::to_string(o) + " could sum up to " + std::to_string(most) + ", the limit is " + std::to_string(limit));
    }
    r.radius = size / 2;
    r.packed.in = dense ? inputs : t.channels;
    r.packed.out = t.channels;
    r.packed.size = size;
    pack_channels(r.packed, t, shifts, biases, dense);
    if (dense) {
      pack_dense(r.packed, weights);
      if (kernels_->begin != nullptr) pack_tiles(r.packed, from, weights);
    } else {
      pack_depthwise(r.packed, weights);
    }
  }

  // By position of the path's order: biases and shifts; by channel: bounds.
  void pack_channels(Packed& p, const Tensor& t, const std::vector<unsigned>& shifts, const std::vector<int32_t>& biases, bool dense) const {
    const size_t block = 2 * kernels_->lanes, all = (padded(p.out) + block - 1) / block * block;
    const size_t ordered = dense ? padded(p.out) : all;
    p.bias.assign(all, 0);
    p.shift.assign(all, 0);
    for (size_t i = 0; i < ordered; ++i) {
      const size_t c = kernels_->channel(i, ordered);
      if (c >= p.out) continue;
      p.bias[i] = biases[c] + (shifts[c] > 0 ? int32_t{1} << (shifts[c] - 1) : 0);
      p.shift[i] = static_cast<int32_t>(shifts[c]);
    }
    pack_bounds(p, t, all);
  }

  static void pack_bounds(Packed& p, const Tensor& t, size_t all) {
    p.low.assign(all, 0);
    p.high.assign(all, 0);
    std::copy(t.low.begin(), t.low.end(), p.low.begin());
    std::copy(t.high.begin(), t.high.end(), p.high.begin());
  }

  void pack_dense(Packed& p, const std::vector<int16_t>& weights) const {
    const size_t lanes = kernels_->lanes, all = padded(p.out), pairs = (p.in + 1) / 2, taps = p.size * p.size;
    p.weights.assign(all * pairs * 2 * taps, 0);
    int16_t* to = p.weights.data();
    for (size_t group = 0; group < all; group += kernels_->group * lanes) {
      const size_t end = std::min(group + kernels_->group * lanes, all);
      for (size_t tap = 0; tap < taps; ++tap)
        for (size_t pair = 0; pair < pairs; ++pair)
          for (size_t i = group; i < end; ++i)
            for (size_t c = 2 * pair; c < 2 * pair + 2; ++c, ++to) {
              const size_t o = kernels_->channel(i, all);
              if (o < p.out && c < p.in) *to = weights[(o * p.in + c) * taps + tap];
            }
    }
  }

  // As nn_tiles.hpp reads them, where it can: weights of one byte, inputs that two signed bytes hold, and not so few
  // channels that tiles are empty.
  void pack_tiles(Packed& p, const Tensor& from, const std::vector<int16_t>& weights) const {
    constexpr size_t kFewest = 16, kBytes = 64, kVector = 16;
    constexpr int16_t kMost = 32767 - 128;
    const auto small = [](int16_t w) { return w >= -128 && w <= 127; };
    const int16_t low = *std::min_element(from.low.begin(), from.low.end()), high = *std::max_element(from.high.begin(), from.high.end());
    if (p.in < kFewest || (p.size == 1 && p.out < kFewest) || high > kMost || !std::all_of(weights.begin(), weights.end(), small)) return;
    p.in_signed = low >= -128 && high <= 127;
    p.in_bytes = p.in_signed || (low >= 0 && high <= 255);
    const size_t all = padded(p.out), pixel = (p.in + kBytes - 1) / kBytes * kBytes, length = p.size * pixel;
    p.tiles.assign(all * p.size * length, 0);
    int8_t* to = p.tiles.data();
    for (size_t vector = 0; vector < all; vector += kVector)
      for (size_t ky = 0; ky < p.size; ++ky)
        for (size_t four = 0; four < length; four += 4)
          for (size_t i = vector; i < vector + kVector; ++i)
            for (size_t k = four; k < four + 4; ++k, ++to) {
              const size_t o = kernels_->channel(i, all), c = k % pixel, kx = k / pixel;
              if (o < p.out && c < p.in) *to = static_cast<int8_t>(weights[((o * p.in + c) * p.size + ky) * p.size + kx]);
            }
  }

  void pack_depthwise(Packed& p, const std::vector<int16_t>& weights) const {
    const size_t block = 2 * kernels_->lanes, all = (padded(p.out) + block - 1) / block * block, pairs = (p.size + 1) / 2;
    p.weights.assign(all * p.size * pairs * 2, 0);
    int16_t* to = p.weights.data();
    for (size_t first = 0; first < all; first += block)
      for (size_t x = 0; x < p.size; ++x)
        for (size_t pair = 0; pair < pairs; ++pair)
          for (size_t i = first; i < first + block; ++i)
            for (size_t y = 2 * pair; y < 2 * pair + 2; ++y, ++to) {
              const size_t c = kernels_->channel(i, all);
              if (c < p.out && y < p.size) *to = weights[(c * p.size + y) * p.size + x];
            }
  }

  void read_add(detail::BlobReader& in, Record& r, Tensor& t) const {
    const size_t a = take_source(in, r), b = take_source(in, r);
    if (tensors_[a].channels != tensors_[b].channels) in.refuse("sources of different channels");
    t.channels = tensors_[a].channels;
    read_bounds(in, t);
    const size_t block = 2 * kernels_->lanes;
    r.packed.out = t.channels;
    pack_bounds(r.packed, t, (padded(t.channels) + block - 1) / block * block);
  }

  void read_concat(detail::BlobReader& in, Record& r, Tensor& t) const {
    const Tensor &a = tensors_[take_source(in, r)], &b = tensors_[take_source(in, r)];
    t = a;
    t.channels += b.channels;
    check_channels(in, t.channels);
    t.low.insert(t.low.end(), b.low.begin(), b.low.end());
    t.high.insert(t.high.end(), b.high.begin(), b.high.end());
  }

  void read_output(detail::BlobReader& in, Record& r) const {
    const size_t channels = tensors_[take_source(in, r)].channels;
    r.factor = static_cast<int>(in.u8());
    if (r.factor != 1 && r.factor != 2 && r.factor != 4) in.refuse("unknown factor " + std::to_string(r.factor));
    if (channels % static_cast<size_t>(r.factor * r.factor) != 0) in.refuse("channels that cannot be shuffled");
  }

  // How far each record lags, and so how many rows of each tensor must be kept.
  void plan() {
    for (Record& r : records_) {
      for (size_t i = 0; i < r.sources; ++i) r.delay = std::max(r.delay, tensors_[r.source[i]].delay + r.radius);
      if (r.kind != Kind::output) tensors_[r.tensor].delay = r.delay;
      for (size_t i = 0; i < r.sources; ++i) {
        Tensor& t = tensors_[r.source[i]];
        t.kept = std::max(t.kept, r.delay - t.delay + r.radius + 1);
      }
      last_ = std::max(last_, r.delay);
    }
    std::vector<size_t> reach(tensors_.size(), 0);
    for (size_t i = records_.size(); i-- > 0;) {
      Record& r = records_[i];
      if (r.kind != Kind::output) r.reach = reach[r.tensor];
      for (size_t k = 0; k < r.sources; ++k) reach[r.source[k]] = std::max(reach[r.source[k]], r.reach + r.radius);
    }
  }

  // Running.

  void check(const Input* in, const Output* out, size_t rows, size_t columns, const Window& window) const {
    if (rows == 0 || columns == 0) throw std::invalid_argument("a grid without positions");
    if (window.top >= window.bottom || window.left >= window.right || window.bottom > rows || window.right > columns)
      throw std::invalid_argument("a window that is not in the grid");
    for (size_t i = 0; i < inputs(); ++i)
      if (in[i].channels != input_channels(i) || !fits(in[i].rows, rows, input_factor(i)) || !fits(in[i].columns, columns, input_factor(i)))
        throw std::invalid_argument("input " + std::to_string(i) + " does not go with the network or the grid");
    for (size_t i = 0; i < outputs(); ++i)
      if (out[i].channels != output_channels(i) || !fits(out[i].rows, window.rows(), output_factor(i)) ||
          !fits(out[i].columns, window.columns(), output_factor(i)))
        throw std::invalid_argument("output " + std::to_string(i) + " does not go with the network or the grid");
  }

  static size_t row_length(const Tensor& t, size_t columns) {
    const size_t n = (kMargin + columns + kSlack) * t.pixel();
    return (n + 31) / 32 * 32;
  }

  void prepare(Workspace& work, size_t columns) const {
    work.starts.resize(tensors_.size());
    size_t all = 0;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      work.starts[i] = all + kMargin * tensors_[i].pixel();
      all += tensors_[i].kept * row_length(tensors_[i], columns);
    }
    if (work.rows.size() < all) work.rows.resize(all);
  }

  int16_t* row_of(size_t tensor, size_t y, size_t columns, Workspace& work) const {
    const Tensor& t = tensors_[tensor];
    return work.rows.data() + work.starts[tensor] + y % t.kept * row_length(t, columns);
  }

  // The border's pixels again, beyond it.
  void replicate(size_t tensor, int16_t* row, size_t columns) const {
    const size_t pixel = tensors_[tensor].pixel();
    for (size_t i = 1; i <= kMargin; ++i) {
      copy<kChannelStep>(row, pixel, row - i * pixel);
      copy<kChannelStep>(row + (columns - 1) * pixel, pixel, row + (columns - 1 + i) * pixel);
    }
  }

  // `step` elements at a time, so up to that many less one more than n.
  template <size_t step>
  static void copy(const int16_t* from, size_t n, int16_t* to) {
    for (size_t i = 0; i < n; i += step) std::memcpy(to + i, from + i, step * sizeof *to);
  }

  void row(const Record& r, size_t y, size_t rows, size_t columns, Workspace& work) const {
    Rows io{};
    io.width = columns;
    io.out = row_of(r.tensor, y, columns, work);
    io.out_pixel = tensors_[r.tensor].pixel();
    io.in_pixel = tensors_[r.source[0]].pixel();
    if (r.kind == Kind::conv || r.kind == Kind::depthwise) {
      for (size_t k = 0; k < r.packed.size; ++k) {
        const size_t above = std::min(y + k, rows - 1 + r.radius);
        io.in[k] = row_of(r.source[0], above < r.radius ? 0 : above - r.radius, columns, work);
      }
      (r.kind == Kind::conv ? kernels_->dense : kernels_->depthwise)(r.packed, io);
    } else if (r.kind == Kind::add) {
      for (size_t i = 0; i < 2; ++i) io.in[i] = row_of(r.source[i], y, columns, work);
      kernels_->add(r.packed, io, io.in_pixel);
    } else {
      concat(r, y, columns, work);
    }
    replicate(r.tensor, io.out, columns);
  }

  // Pixels are written in order, so what padding spills is overwritten.
  void concat(const Record& r, size_t y, size_t columns, Workspace& work) const {
    int16_t* out = row_of(r.tensor, y, columns, work);
    const size_t pixel = tensors_[r.tensor].pixel();
    const Tensor &a = tensors_[r.source[0]], &b = tensors_[r.source[1]];
    const int16_t *from = row_of(r.source[0], y, columns, work), *beside = row_of(r.source[1], y, columns, work);
    for (size_t x = 0; x < columns; ++x, out += pixel, from += a.pixel(), beside += b.pixel()) {
      copy<kChannelStep>(from, a.channels, out);
      copy<kChannelStep>(beside, b.channels, out + a.channels);
    }
  }

  // Whether pixels may be copied kBeside channels at a time.
  template <class T>
  static bool beside(const Planes<T>& p, int factor) {
    return factor == 1 && p.channel_step == 1 && (p.channels + kBeside - 1) / kBeside * kBeside <= p.channels + p.spare;
  }

  void enter(const Record& r, const Input& in, size_t y, size_t columns, Workspace& work) const {
    const Tensor& t = tensors_[r.tensor];
    int16_t* out = row_of(r.tensor, y, columns, work);
    const size_t pixel = t.pixel();
    const int16_t low = t.low[0], high = t.high[0];
    if (beside(in, r.factor)) {
      const int16_t *from = in.at(0, y), *next = in.at(0, std::min(y + 1, in.rows - 1));
      for (size_t x = 0; x < columns; ++x, from += in.column_step, next += in.column_step) {
        __builtin_prefetch(next);  // all layers run before it is read
        for (size_t c = 0; c < t.channels; c += kBeside)
          for (size_t i = 0; i < kBeside; ++i) out[x * pixel + c + i] = std::clamp(from[c + i], low, high);
      }
    } else if (r.factor > 1) {
      if (r.factor == 2) unshuffle<2>(t, in, y, columns, out);
      if (r.factor == 4) unshuffle<4>(t, in, y, columns, out);
    } else {
      const unsigned halve = r.factor < 0 ? 1 : 0;
      for (size_t c = 0; c < t.channels; ++c) {
        const int16_t* from = in.at(c, y >> halve);
        for (size_t x = 0; x < columns; ++x)
          out[x * pixel + c] = std::clamp(from[static_cast<ptrdiff_t>(x >> halve) * in.column_step], low, high);
      }
    }
    replicate(r.tensor, out, columns);
  }

  template <size_t f>
  static void unshuffle(const Tensor& t, const Input& in, size_t y, size_t columns, int16_t* out) {
    const size_t pixel = t.pixel(), whole = in.column_step == 1 ? in.columns / f : 0;
    const int16_t low = t.low[0], high = t.high[0];
    for (size_t c = 0; c < t.channels; c += f) {
      const int16_t* from = in.at(c / (f * f), std::min(y * f + c / f % f, in.rows - 1));
      for (size_t x = 0; x < whole; ++x)
        for (size_t i = 0; i < f; ++i) out[x * pixel + c + i] = std::clamp(from[x * f + i], low, high);
      for (size_t x = whole; x < columns; ++x)
        for (size_t i = 0; i < f; ++i)
          out[x * pixel + c + i] = std::clamp(from[static_cast<ptrdiff_t>(std::min(x * f + i, in.columns - 1)) * in.column_step], low, high);
    }
  }

  void leave(const Record& r, const Output& out, size_t y, size_t columns, const Window& window, Workspace& work) const {
    const Tensor& t = tensors_[r.source[0]];
    const size_t pixel = t.pixel(), above = y - window.top;
    const int16_t* from = row_of(r.source[0], y, columns, work) + window.left * pixel;
    if (beside(out, r.factor)) {
      int16_t *to = out.at(0, above), *next = out.at(0, std::min(above + 1, out.rows - 1));
      for (size_t x = 0; x < window.columns(); ++x, to += out.column_step, next += out.column_step) {
        __builtin_prefetch(next, 1);
        copy<kBeside>(from + x * pixel, t.channels, to);
      }
    } else {
      if (r.factor == 1) shuffle<1>(t, from, above, window.columns(), out);
      if (r.factor == 2) shuffle<2>(t, from, above, window.columns(), out);
      if (r.factor == 4) shuffle<4>(t, from, above, window.columns(), out);
    }
  }

  template <size_t f>
  static void shuffle(const Tensor& t, const int16_t* from, size_t y, size_t columns, const Output& out) {
    const size_t pixel = t.pixel(), whole = out.column_step == 1 ? out.columns / f : 0;
    for (size_t c = 0; c < t.channels; c += f) {
      const size_t row = y * f + c / f % f;
      if (row >= out.rows) continue;
      int16_t* to = out.at(c / (f * f), row);
      for (size_t x = 0; x < whole; ++x) std::memcpy(to + x * f, from + x * pixel + c, f * sizeof *to);
      for (size_t x = whole; x < columns; ++x)
        for (size_t i = 0; i < f && x * f + i < out.columns; ++i) to[static_cast<ptrdiff_t>(x * f + i) * out.column_step] = from[x * pixel + c + i];
    }
  }

  const Kernels* kernels_;
  std::vector<Record> records_;
  std::vector<Tensor> tensors_;
  std::vector<size_t> inputs_, outputs_;  // records
  size_t last_ = 0;
};

}  // namespace tilevault::nn
