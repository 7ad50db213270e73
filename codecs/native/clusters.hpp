// Values that lie in clusters, far from each other: integers of 8 bits that were scaled and rounded with a
// term that changes slowly over the image (satellite reflectances), so that each is a handful of neighbours.
//
// A tile becomes two: the number of the cluster, which is as smooth as the integers were, and the place in
// it, taken relative to the place where this cluster was met before, which is nearly always the same.
#pragma once

#include <vector>

#include "palette.hpp"

namespace tilevault {

class Clusters {
 public:
  static constexpr uint32_t kMostPlaces = 128;  // of one cluster: the difference of two fits 8 bits
  static constexpr size_t kFewest = 8;          // clusters, and 64 times as many samples as values: else it cannot pay

  // Keys further apart than `gap` belong to different clusters.
  void cut(const std::vector<uint32_t>& keys, uint32_t gap) {
    begins_.clear();
    for (size_t i = 0; i < keys.size(); ++i)
      if (i == 0 || keys[i] - keys[i - 1] > gap) begins_.push_back(static_cast<uint32_t>(i));
    begins_.push_back(static_cast<uint32_t>(keys.size()));
    for (size_t c = 0; c < count(); ++c)
      if (begins_[c + 1] - begins_[c] > kMostPlaces) throw Corrupt("a cluster has too many values");
    before_.assign(count(), 0);  // and so again after each plane, without looking at all clusters
  }

  // Whether the keys of `samples` samples look as if they lay in clusters, and then the gap between them.
  bool find(const std::vector<uint32_t>& keys, size_t samples, uint32_t& gap) {
    if (keys.size() < 4 * kFewest || samples / 64 < keys.size()) return false;
    // The mean distance of all values lies between the small and the large ones.
    gap = static_cast<uint32_t>((keys.back() - keys.front()) / (keys.size() - 1) / 2);
    if (gap < 2) return false;
    try {
      cut(keys, gap);
    } catch (const Corrupt&) {
      return false;
    }
    return count() >= kFewest && count() * 2 <= keys.size();
  }

  size_t count() const { return begins_.size() - 1; }

  // ranks: of planes times size samples among the keys. False if places change too often to be worth it.
  bool split(const int32_t* ranks, size_t planes, size_t size, std::vector<uint8_t>& clusters, std::vector<uint8_t>& places) {
    cluster_of_.resize(begins_.back());
    for (size_t c = 0; c < count(); ++c) std::fill(cluster_of_.begin() + begins_[c], cluster_of_.begin() + begins_[c + 1], static_cast<uint16_t>(c));
    clusters.resize(2 * planes * size);
    places.resize(planes * size);
    size_t changes = 0;
    for (size_t p = 0; p < planes; ++p) {
      for (size_t i = p * size; i < (p + 1) * size; ++i) {
        const auto rank = static_cast<uint32_t>(ranks[i]);
        const unsigned c = cluster_of_[rank];
        const auto place = static_cast<int32_t>(rank - begins_[c]);
        store_le16(&clusters[2 * i], c);
        places[i] = static_cast<uint8_t>(place - before_[c]);
        changes += place != before_[c];
        before_[c] = place;
      }
      for (size_t i = p * size; i < (p + 1) * size; ++i) before_[load_le16(&clusters[2 * i])] = 0;
    }
    return changes < planes * size * 2 / 5;
  }

  // The ranks of a plane again; throws if a cluster or a place is none.
  void join(const uint8_t* clusters, const uint8_t* places, size_t size, int32_t* ranks) {
    for (size_t i = 0; i < size; ++i) {
      const unsigned c = load_le16(clusters + 2 * i);
      if (c >= count()) throw Corrupt("a cluster is none of the list's");
      const int32_t place = before_[c] + static_cast<int8_t>(places[i]);
      if (place < 0 || static_cast<uint32_t>(place) >= begins_[c + 1] - begins_[c]) throw Corrupt("a value lies outside of its cluster");
      before_[c] = place;
      ranks[i] = static_cast<int32_t>(begins_[c]) + place;
    }
    for (size_t i = 0; i < size; ++i) before_[load_le16(clusters + 2 * i)] = 0;
  }

 private:
  std::vector<uint32_t> begins_;  // of each cluster among the keys, and behind the last
  std::vector<int32_t> before_;
  std::vector<uint16_t> cluster_of_;
};

}  // namespace tilevault
