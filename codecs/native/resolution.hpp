// The wavelet path as a whole: decomposition by decomposition, all planes of one before the next, because the
// contexts and predictions of a decomposition's bands look at its LL.
#pragma once

#include <vector>

#include "colour_choice.hpp"
#include "encoder.hpp"
#include "refs.hpp"

namespace tilevault {

// LL of one decomposition, all planes one behind the other.
class LowBands {
 public:
  void resize(const Subbands& tile, unsigned k) {
    const size_t h = tile.height_at(k), w = tile.width_at(k);
    size_ = LowBand::size(h, w);
    if (words_.size() < tile.planes * size_) words_.resize(tile.planes * size_);
    bands_.clear();
    for (size_t p = 0; p < tile.planes; ++p) bands_.emplace_back(words_.data() + p * size_, h, w);
  }
  const std::vector<LowBand>& bands() const { return bands_; }
  const LowBand& operator[](size_t plane) const { return bands_[plane]; }

  // As the coder sees them: after the colour transform.
  const std::vector<LowBand>& coded(const Subbands& tile, unsigned k, const Colour& colour, LowBands& copy) const {
    if (!colour) return bands_;
    copy.resize(tile, k);
    std::copy_n(words_.begin(), tile.planes * size_, copy.words_.begin());
    colour.apply(copy.words_.data(), size_);
    return copy.bands_;
  }

  // From and to the coefficients of segment 0, which have no borders.
  void load(const int32_t* c) {
    for (const LowBand& b : bands_)
      for (size_t y = 0; y < b.height(); ++y, c += b.width()) {
        std::copy_n(c, b.width(), b[y]);
        b.close(y);
      }
  }
  void store(int32_t* c) const {
    for (const LowBand& b : bands_)
      for (size_t y = 0; y < b.height(); ++y, c += b.width()) std::copy_n(b[y], b.width(), c);
  }

 private:
  std::vector<int32_t> words_;
  std::vector<LowBand> bands_;
  size_t size_ = 0;
};

inline Rows band_rows(const Subbands& tile, unsigned k, size_t plane, Kind kind, int32_t* c) {
  const Band b = tile.band(k, plane, kind);
  return {c + b.offset, b.width};
}
inline Rows low_rows(const LowBand& b) { return {b[0], LowBand::stride(b.width())}; }

// The words of one segment that belong to one plane.
inline size_t segment_plane(const Subbands& tile, unsigned s) { return (tile.prefix(s + 1) - tile.prefix(s)) / tile.planes; }

class ResolutionEncoder {
 public:
  // Decomposition 1, and what is chosen by its bands. words: all planes, of a transposed order transposed.
  // axes: of which a colour transform is tried.
  void start(const Subbands& tile, Order order, const int32_t* words, const std::vector<Colour>& axes) {
    tile_ = tile;
    order_ = order;
    c_.resize(tile.prefix(tile.levels + 1));
    scratch_.resize(7 * tile.width + 1);
    references_.assign(tile.planes, Reference{});
    across_ = 0;
    colour_ = Colour();
    coder_.start(tile);
    if (tile.levels == 0) {
      std::copy_n(words, c_.size(), c_.data());
      choose(axes, c_.data(), segment_plane(tile, 0));
    } else {
      split(1, words);
      const size_t size = segment_plane(tile, tile.levels);
      int32_t* segment = c_.data() + tile.prefix(tile.levels);
      choose(axes, segment, size);
      finder_.find(tile.planes, size, [&](size_t p) { return segment + p * size; }, references_);
      coder_.fit(1, coded(1), references_, c_.data(), order == Order::plain ? &across_ : nullptr);
    }
  }

  // Whether the finest bands would take clearly fewer bits transposed: they do if predictions that look left in
  // the place of up save more. Less than this is not worth the time that transposed tiles take.
  bool better_transposed() const {
    const size_t coefficients = tile_.prefix(tile_.levels + 1) - tile_.prefix(tile_.levels);
    return tile_.levels != 0 && across_ > static_cast<int64_t>(coefficients / 40);
  }

  // After start: appends the segments to out, their ends to ends, and returns the number of the axis that has got a
  // colour transform, of kind `kind`, or -1.
  int write(Coder coder, std::vector<uint8_t>& out, std::vector<size_t>& ends, ColourKind& kind) {
    int32_t* c = c_.data();
    for (unsigned k = 1; k <= tile_.levels; ++k) {
      if (k > 1) {
        split(k, nullptr);
        const unsigned s = tile_.levels + 1 - k;
        colour_.apply(c + tile_.prefix(s), segment_plane(tile_, s));
        coder_.fit(k, coded(k), references_, c, nullptr);
      }
      coder_.decompose(k, colour_ ? coded_.bands() : low_[k & 1].bands(), c);
      if (k == tile_.levels) (colour_ ? coded_ : low_[k & 1]).store(c);
    }
    coder_.low(references_, c);
    coder_.write(coder, c, out, ends);
    kind = kind_;
    return chosen_;
  }

 private:
  const std::vector<LowBand>& coded(unsigned k) { return low_[k & 1].coded(tile_, k, colour_, coded_); }

  // Decomposition k of the words, or of LL of the one before.
  void split(unsigned k, const int32_t* words) {
    low_[k & 1].resize(tile_, k);
    run([&] {
      if (order_ == Order::plain) analyse_planes<Order::plain>(k, words);
      else analyse_planes<Order::transposed>(k, words);
    });
  }

  template <Order order>
  void analyse_planes(unsigned k, const int32_t* words) {
    const size_t h = tile_.height_at(k - 1), w = tile_.width_at(k - 1);
    const LowBands &low = low_[k & 1], &above = low_[~k & 1];
    int32_t* c = c_.data();
    for (size_t p = 0; p < tile_.planes; ++p) {
      const int32_t* from = k == 1 ? words + p * h * w : above[p][0];
      const size_t stride = k == 1 ? w : LowBand::stride(w);
      analyse<order>(h, w, [&](size_t y) { return from + y * stride; }, low_rows(low[p]), band_rows(tile_, k, p, kHL, c),
                     band_rows(tile_, k, p, kLH, c), band_rows(tile_, k, p, kHH, c), scratch_.data());
      for (size_t y = 0; y < low[p].height(); ++y) low[p].close(y);
    }
  }

  // The colour transform of the finest coefficients (of each plane `size`), and its result.
  void choose(const std::vector<Colour>& axes, int32_t* segment, size_t size) {
    chosen_ = colours_.find(axes, segment, size, kind_);
    if (chosen_ >= 0) colour_ = axes[static_cast<size_t>(chosen_)].of_kind(kind_);
    colour_.apply(segment, size);
  }

  Subbands tile_{};
  Order order_ = Order::plain;
  CoefficientEncoder coder_;
  ColourChoice colours_;
  ReferenceFinder finder_;
  std::vector<Reference> references_;
  LowBands low_[2], coded_;
  std::vector<int32_t> c_, scratch_;
  Colour colour_;
  ColourKind kind_;
  int chosen_ = -1;
  int64_t across_ = 0;
};

class ResolutionDecoder {
 public:
  // Segments: as many as are wanted. sink(plane, y, row) takes the rows of LL of the last one, of a transposed
  // order its columns.
  template <class Sink>
  void decode(const Subbands& tile, Order order, const Colour& colour, const std::vector<Bytes>& segments, Sink&& sink) {
    const auto count = static_cast<unsigned>(segments.size());
    c_.resize(tile.prefix(count));
    scratch_.resize(7 * tile.width + 1);
    int32_t* c = c_.data();
    coder_.low(tile, segments[0], c);
    colour.undo(c, segment_plane(tile, 0));
    low_[0].resize(tile, tile.levels);
    low_[0].load(c);
    if (count == 1) {
      for (size_t p = 0; p < tile.planes; ++p)
        for (size_t y = 0; y < low_[0][p].height(); ++y) sink(p, y, low_[0][p][y]);
      return;
    }
    for (unsigned s = 1; s < count; ++s) {
      const unsigned k = tile.levels + 1 - s;
      LowBands &low = low_[~s & 1], &next = low_[s & 1];
      coder_.decomposition(k, segments[s], low.coded(tile, k, colour, coded_), c);
      colour.undo(c + tile.prefix(s), segment_plane(tile, s));
      if (s + 1 < count) next.resize(tile, k - 1);
      for (size_t p = 0; p < tile.planes; ++p) {
        if (s + 1 == count) {
          run([&] { synthesise_plane(tile, order, k, p, low[p], [&](size_t y, const int32_t* row) { sink(p, y, row); }); });
        } else {
          const LowBand to = next[p];
          run([&] {
            synthesise_plane(tile, order, k, p, low[p], [&](size_t y, const int32_t* row) {
              std::copy_n(row, to.width(), to[y]);
              to.close(y);
            });
          });
        }
      }
    }
  }

 private:
  template <class Sink>
  void synthesise_plane(const Subbands& tile, Order order, unsigned k, size_t p, const LowBand& low, Sink&& sink) {
    const size_t h = tile.height_at(k - 1), w = tile.width_at(k - 1);
    const Rows hl = band_rows(tile, k, p, kHL, c_.data()), lh = band_rows(tile, k, p, kLH, c_.data()), hh = band_rows(tile, k, p, kHH, c_.data());
    if (order == Order::plain) {
      synthesise<Order::plain>(h, w, low_rows(low), hl, lh, hh, sink, scratch_.data());
    } else {
      synthesise<Order::transposed>(h, w, low_rows(low), hl, lh, hh, sink, scratch_.data());
    }
  }

  CoefficientDecoder coder_;
  LowBands low_[2], coded_;
  std::vector<int32_t> c_, scratch_;
};

}  // namespace tilevault
