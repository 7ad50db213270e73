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
  // words: all planes. axes: of which a colour transform is tried. Appends the segments to out, their ends to
  // ends, and returns the number of the axis that has got one, of kind `kind`, or -1.
  int encode(const Subbands& tile, const int32_t* words, const std::vector<Colour>& axes, Coder coder, std::vector<uint8_t>& out,
             std::vector<size_t>& ends, ColourKind& kind) {
    c_.resize(tile.prefix(tile.levels + 1));
    scratch_.resize(6 * tile.width + 1);
    int32_t* c = c_.data();
    int chosen = -1;
    Colour colour;
    references_.assign(tile.planes, Reference{});
    coder_.start(tile);
    if (tile.levels == 0) {
      std::copy_n(words, c_.size(), c);
      chosen = choose(axes, c, segment_plane(tile, 0), kind, colour);
      colour.apply(c, segment_plane(tile, 0));
    }
    for (unsigned k = 1; k <= tile.levels; ++k) {
      LowBands &low = low_[k & 1], &above = low_[~k & 1];
      low.resize(tile, k);
      run([&] { analyse_planes(tile, k, words, above, low); });
      const unsigned s = tile.levels + 1 - k;
      int32_t* segment = c + tile.prefix(s);
      if (k == 1) chosen = choose(axes, segment, segment_plane(tile, s), kind, colour);
      colour.apply(segment, segment_plane(tile, s));
      if (k == 1) finder_.find(tile.planes, segment_plane(tile, s), [&](size_t p) { return segment + p * segment_plane(tile, s); }, references_);
      const std::vector<LowBand>& coded = low.coded(tile, k, colour, coded_);
      coder_.decompose(k, coded, references_, c);
      if (k == tile.levels) (colour ? coded_ : low).store(c);
    }
    coder_.low(references_, c);
    coder_.write(coder, c, out, ends);
    return chosen;
  }

 private:
  void analyse_planes(const Subbands& tile, unsigned k, const int32_t* words, const LowBands& above, const LowBands& low) {
    const size_t h = tile.height_at(k - 1), w = tile.width_at(k - 1);
    int32_t* c = c_.data();
    for (size_t p = 0; p < tile.planes; ++p) {
      const int32_t* from = k == 1 ? words + p * h * w : above[p][0];
      const size_t stride = k == 1 ? w : LowBand::stride(w);
      analyse(h, w, [&](size_t y, int32_t* row) { std::copy_n(from + y * stride, w, row); }, low_rows(low[p]),
              band_rows(tile, k, p, kHL, c), band_rows(tile, k, p, kLH, c), band_rows(tile, k, p, kHH, c), scratch_.data());
      for (size_t y = 0; y < low[p].height(); ++y) low[p].close(y);
    }
  }

  int choose(const std::vector<Colour>& axes, const int32_t* segment, size_t size, ColourKind& kind, Colour& colour) {
    const int chosen = colours_.find(axes, segment, size, kind);
    if (chosen >= 0) colour = axes[static_cast<size_t>(chosen)].of_kind(kind);
    return chosen;
  }

  CoefficientEncoder coder_;
  ColourChoice colours_;
  ReferenceFinder finder_;
  std::vector<Reference> references_;
  LowBands low_[2], coded_;
  std::vector<int32_t> c_, scratch_;
};

class ResolutionDecoder {
 public:
  // Segments: as many as are wanted. sink(plane, y, row) takes the rows of LL of the last one.
  template <class Sink>
  void decode(const Subbands& tile, const Colour& colour, const std::vector<Bytes>& segments, Sink&& sink) {
    const auto count = static_cast<unsigned>(segments.size());
    c_.resize(tile.prefix(count));
    scratch_.resize(6 * tile.width + 1);
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
          run([&] { synthesise_plane(tile, k, p, low[p], [&](size_t y, const int32_t* row) { sink(p, y, row); }); });
        } else {
          const LowBand to = next[p];
          run([&] {
            synthesise_plane(tile, k, p, low[p], [&](size_t y, const int32_t* row) {
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
  void synthesise_plane(const Subbands& tile, unsigned k, size_t p, const LowBand& low, Sink&& sink) {
    int32_t* c = c_.data();
    synthesise(tile.height_at(k - 1), tile.width_at(k - 1), low_rows(low), band_rows(tile, k, p, kHL, c), band_rows(tile, k, p, kLH, c),
               band_rows(tile, k, p, kHH, c), sink, scratch_.data());
  }

  CoefficientDecoder coder_;
  LowBands low_[2], coded_;
  std::vector<int32_t> c_, scratch_;
};

}  // namespace tilevault
