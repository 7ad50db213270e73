// Which earlier planes of a tile a plane is predicted from: bands of one scene show the same edges.
//
// Chosen by the encoder from details (values without their local mean), by how much of a plane's details
// one or two earlier planes explain. Sent in the header; the decoder only reads it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "varint.hpp"

namespace tilevault {

// Earlier planes, -1: none. second only if first.
struct Reference {
  int32_t first = -1, second = -1;
};

class ReferenceFinder {
 public:
  // detail(p): n details of plane p, in the same places for all planes; only differences between planes
  // of what is left and right, above and below count, so any high-passed signal will do.
  template <class Detail>
  void find(size_t planes, size_t n, Detail&& detail, std::vector<Reference>& references) {
    references.assign(planes, Reference{});
    if (planes < 2 || n < kLeast) return;
    taken_ = std::min(n, kTaken);
    samples_.resize(planes * taken_);
    for (size_t p = 0; p < planes; ++p) take(detail(p), n, samples_.data() + p * taken_);
    for (size_t p = 1; p < planes; ++p) references[p] = best(p);
  }

  // Details of a plane of words: what a plane through three neighbours, half way to flat, leaves of each.
  // (height - 1) * (width - 1) of them.
  static void details(const int32_t* words, size_t height, size_t width, int32_t* out) {
    for (size_t y = 1; y < height; ++y) {
      const int32_t *row = words + y * width, *above = row - width;
      for (size_t x = 1; x < width; ++x) {
        const int64_t predicted = (3 * int64_t{row[x - 1]} + 3 * int64_t{above[x]} - 2 * int64_t{above[x - 1]}) >> 2;
        *out++ = static_cast<int32_t>(std::clamp<int64_t>(row[x] - predicted, -kClip, kClip));
      }
    }
  }

 private:
  static constexpr size_t kTaken = 16384, kPiece = 128, kLeast = 64;
  static constexpr size_t kReach = 16;                   // earlier planes that are looked at
  static constexpr int32_t kClip = 1 << 20;              // sums of products stay below 2^54
  static constexpr double kFirst = 0.01, kSecond = 0.015;  // bits per sample that make a reference worth its time

  // Pieces spread evenly; clipped at four times their mean, so that a few edges do not decide.
  void take(const int32_t* from, size_t n, int32_t* to) const {
    const size_t pieces = (taken_ + kPiece - 1) / kPiece;
    uint64_t sum = 0;
    size_t at = 0;
    for (size_t i = 0; i < pieces; ++i) {
      const size_t count = std::min(kPiece, taken_ - at);
      const int32_t* piece = from + (pieces == 1 ? 0 : (n - count) * i / (pieces - 1));
      for (size_t j = 0; j < count; ++j) {
        to[at + j] = std::clamp(piece[j], -kClip, kClip);
        sum += static_cast<uint64_t>(std::abs(to[at + j]));
      }
      at += count;
    }
    const int32_t limit = static_cast<int32_t>(std::min<uint64_t>(4 * sum / taken_ + 1, kClip));
    for (size_t i = 0; i < taken_; ++i) to[i] = std::clamp(to[i], -limit, limit);
  }

  double product(size_t p, size_t q) const {
    const int32_t *a = samples_.data() + p * taken_, *b = samples_.data() + q * taken_;
    int64_t sum = 0;
    for (size_t i = 0; i < taken_; ++i) sum += int64_t{a[i]} * b[i];
    return static_cast<double>(sum);
  }

  // Bits per sample saved where this share of the squares is explained.
  static double bits(double share) { return -0.5 * std::log2(std::max(1 - share, 1e-9)); }

  Reference best(size_t p) const {
    Reference out;
    const size_t begin = p > kReach ? p - kReach : 0;
    const double own = product(p, p);
    double most = kFirst;
    double with[kReach], squares[kReach];
    for (size_t q = begin; q < p && own > 0; ++q) {
      const size_t i = q - begin;
      with[i] = product(p, q);
      squares[i] = product(q, q);
      const double saved = squares[i] > 0 ? bits(with[i] * with[i] / (squares[i] * own)) : 0;
      if (saved > most) {
        most = saved;
        out.first = static_cast<int32_t>(q);
      }
    }
    if (out.first < 0) return out;
    const size_t a = static_cast<size_t>(out.first) - begin;
    most += kSecond;
    for (size_t q = begin; q < p; ++q) {
      const size_t i = q - begin;
      if (i == a || squares[i] <= 0) continue;
      const double both = product(q, a + begin), det = squares[a] * squares[i] - both * both;
      if (det <= 1e-6 * squares[a] * squares[i]) continue;
      const double share =
          (with[a] * with[a] * squares[i] - 2 * with[a] * with[i] * both + with[i] * with[i] * squares[a]) / (det * own);
      if (bits(share) > most) {
        most = bits(share);
        out.second = static_cast<int32_t>(q);
      }
    }
    return out;
  }

  std::vector<int32_t> samples_;
  size_t taken_ = 0;
};

namespace frame {

// For each plane but the first: first + 1, and if there is one, second + 1.
inline void put_references(const std::vector<Reference>& references, std::vector<uint8_t>& out) {
  for (size_t p = 1; p < references.size(); ++p) {
    put_varint(out, static_cast<uint64_t>(references[p].first + 1));
    if (references[p].first >= 0) put_varint(out, static_cast<uint64_t>(references[p].second + 1));
  }
}

inline void take_references(Bytes& in, size_t planes, std::vector<Reference>& references) {
  references.assign(planes, Reference{});
  for (size_t p = 1; p < planes; ++p) {
    const uint32_t first = take_varint(in);
    if (first > p) throw Corrupt("a plane refers to one that is not before it");
    references[p].first = static_cast<int32_t>(first) - 1;
    if (first == 0) continue;
    const uint32_t second = take_varint(in);
    if (second > p || second == first) throw Corrupt("a plane refers to one that is not before it, or twice");
    references[p].second = static_cast<int32_t>(second) - 1;
  }
}

}  // namespace frame
}  // namespace tilevault
