// What can be taken out of a plane before it is transformed: rows and columns that repeat the one before
// (bands that were upsampled by repetition, constant planes, padding), values that do not occur in it, and
// wide gaps between values of 32 bits (floats around zero; nodata far outside the data).
//
// What is left are planes of several sizes; those of one size go into one nested frame. So the transforms
// see ordinary tiles, and each value of an upsampled band is coded once.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "palette.hpp"
#include "varint.hpp"

namespace tilevault {

// Along one axis: where a new row (or column) begins. The ones up to the next begin are its repetitions.
struct Runs {
  size_t extent = 0;
  std::vector<uint32_t> begins;  // ascending, the first is 0

  size_t count() const { return begins.size(); }
  bool whole() const { return count() == extent; }

  void keep_all(size_t n) {
    extent = n;
    begins.resize(n);
    for (size_t i = 0; i < n; ++i) begins[i] = static_cast<uint32_t>(i);
  }

  // Upsampled by repetition: all begins are a multiple of some p >= 2 apart. Begins that are missing because
  // neighbours happened to be equal are put in.
  bool make_regular() {
    uint32_t p = 0;
    for (size_t i = 2; i < count(); ++i) p = std::gcd(p, begins[i] - begins[i - 1]);
    if (count() == 1 || whole()) return true;
    if (p < 2) return false;
    const uint32_t first = (begins[1] - 1) % p + 1;
    begins.assign(1, 0);
    for (size_t i = first; i < extent; i += p) begins.push_back(static_cast<uint32_t>(i));
    return true;
  }

  // The period p >= 2 of runs f, p, p, ... (f and the last one may be shorter), or 0.
  uint32_t period() const {
    if (count() == 1) return static_cast<uint32_t>(extent);
    const uint32_t p = count() == 2 ? std::max(begins[1], static_cast<uint32_t>(extent) - begins[1]) : begins[2] - begins[1];
    if (p < 2 || begins[1] > p || extent - begins.back() > p) return 0;
    for (size_t i = 2; i < count(); ++i)
      if (begins[i] - begins[i - 1] != p) return 0;
    return p;
  }
};

inline bool operator==(const Runs& a, const Runs& b) { return a.extent == b.extent && a.begins == b.begins; }

// Keys (palette_key) that do not occur: `length` of them, above `below`.
struct Gap {
  uint32_t below, length;
};
inline bool operator==(const Gap& a, const Gap& b) { return a.below == b.below && a.length == b.length; }

// What is done to one plane.
struct PlaneMap {
  Runs rows, columns;
  std::vector<uint32_t> keys;  // all values in order, if samples become ranks
  std::vector<Gap> gaps;       // ascending, if gaps are closed
  size_t group = 0;

  bool whole() const { return rows.whole() && columns.whole() && keys.empty() && gaps.empty(); }
  size_t samples() const { return rows.count() * columns.count(); }

  // The type of what is left of samples of `type`.
  Type inner(Type type) const {
    if (!gaps.empty()) return Type::u32;
    if (keys.empty()) return type;
    return size_of(type) == 1 ? Type::u8 : Type::u16;
  }
};

inline bool same_map(const PlaneMap& a, const PlaneMap& b) {
  return a.rows == b.rows && a.columns == b.columns && a.keys == b.keys && a.gaps == b.gaps;
}

namespace planes {
constexpr size_t kMaxPlanes = 4096;  // of a frame with maps: bounds what its header can make a decoder hold
constexpr size_t kMaxGaps = 4;
}  // namespace planes

// Finds what pays. samples: planes x height x width of type, C order.
class PlaneFinder {
 public:
  // False if every plane stays whole.
  bool find(Type type, const uint8_t* samples, size_t planes, size_t height, size_t width, std::vector<PlaneMap>& maps) {
    maps.resize(planes);
    forget();
    const size_t size = size_of(type), bytes = height * width * size;
    bool any = false;
    find_runs(samples, size, height, width, maps);
    for (size_t p = 0; p < planes; ++p) {
      if (size == 4 && height * width >= kGapSamples) find_gaps(type, samples + p * bytes, height * width, maps[p].gaps);
      any |= !maps[p].whole();
    }
    if (planes > 1 && height * width >= kListedSamples && find_lists(type, samples, height, width, maps)) any = true;
    if (any) group(type, maps);
    return any;
  }

  // No plane of the tile that was looked at last was worth a list of values: one for all would save less still.
  bool dense() const { return dense_; }
  void forget() { dense_ = false; }

 private:
  // Under this share of the samples it is worth a nested frame.
  static constexpr double kWorthwhile = 0.7;
  static constexpr size_t kProbed = 16;
  static constexpr size_t kGapSamples = 4096;      // so that filling the buckets is not most of the work
  static constexpr size_t kListedSamples = 16384;  // smaller planes do not pay for lists of their own, nor for looking

  // Bands that were upsampled each get their own runs; planes that repeat irregularly share those that all
  // of them have, so that they stay planes of one size.
  void find_runs(const uint8_t* samples, size_t size, size_t height, size_t width, std::vector<PlaneMap>& maps) {
    joint_.assign(height + width, 0);
    irregular_.assign(maps.size(), 0);
    std::ptrdiff_t kept_apart = 0;  // upsampled or constant
    for (size_t p = 0; p < maps.size(); ++p) {
      maps[p] = PlaneMap{};
      find_runs(samples + p * height * width * size, size, height, width, maps[p]);
      Runs &rows = maps[p].rows, &columns = maps[p].columns;
      if (!worthwhile(maps[p])) {
        rows.keep_all(height);
        columns.keep_all(width);
        continue;
      }
      Runs own[2] = {rows, columns};
      if (own[0].make_regular() && own[1].make_regular()) {
        rows = std::move(own[0]);
        columns = std::move(own[1]);
        ++kept_apart;
        continue;
      }
      irregular_[p] = 1;
      for (const uint32_t y : rows.begins) joint_[y] = 1;
      for (const uint32_t x : columns.begins) joint_[height + x] = 1;
    }
    PlaneMap shared;
    shared.rows.extent = height;
    shared.columns.extent = width;
    for (size_t i = 0; i < height + width; ++i) {
      if (joint_[i] == 0) continue;
      (i < height ? shared.rows : shared.columns).begins.push_back(static_cast<uint32_t>(i < height ? i : i - height));
    }
    // Alone among planes that stay whole they would lose those as references: only where both axes repeat.
    const bool all = std::count(irregular_.begin(), irregular_.end(), 1) + kept_apart == static_cast<std::ptrdiff_t>(maps.size());
    const bool both = 5 * shared.rows.count() < 4 * height && 5 * shared.columns.count() < 4 * width;
    if (!worthwhile(shared) || !(all || both)) {
      shared.rows.keep_all(height);
      shared.columns.keep_all(width);
    }
    for (size_t p = 0; p < maps.size(); ++p)
      if (irregular_[p] != 0) maps[p] = shared;
  }

  static bool worthwhile(const PlaneMap& map) {
    return static_cast<double>(map.samples()) < kWorthwhile * static_cast<double>(map.rows.extent * map.columns.extent);
  }

  void find_runs(const uint8_t* plane, size_t size, size_t height, size_t width, PlaneMap& map) {
    const size_t stride = width * size;
    Runs &rows = map.rows, &columns = map.columns;
    rows.extent = height;
    columns.extent = width;
    rows.begins.assign(1, 0);
    changes_.assign(width, 0);
    mark_changes(plane, size, width);
    bool open = true;  // columns may still repeat
    for (size_t y = 1; y < height; ++y) {
      const uint8_t* row = plane + y * stride;
      if (std::memcmp(row, row - stride, stride) == 0) continue;
      rows.begins.push_back(static_cast<uint32_t>(y));
      if (open) mark_changes(row, size, width);
      if (open && rows.count() % kProbed == 0) open = static_cast<size_t>(std::count(changes_.begin(), changes_.end(), 0)) > width / 4;
    }
    columns.begins.assign(1, 0);
    for (size_t x = 1; x < width; ++x)
      if (!open || changes_[x] != 0) columns.begins.push_back(static_cast<uint32_t>(x));
  }

  template <class T>
  void mark(const uint8_t* row, size_t width) {
    uint8_t* c = changes_.data();
    for (size_t x = 1; x < width; ++x) {
      T before, here;
      std::memcpy(&before, row + (x - 1) * sizeof(T), sizeof(T));
      std::memcpy(&here, row + x * sizeof(T), sizeof(T));
      c[x] = static_cast<uint8_t>(c[x] | static_cast<uint8_t>(here != before));
    }
  }
  void mark_changes(const uint8_t* row, size_t size, size_t width) {
    if (size == 1) return mark<uint8_t>(row, width);
    if (size == 2) return mark<uint16_t>(row, width);
    mark<uint32_t>(row, width);
  }

  // A list for each plane, where together they save clearly more than one list for the tile would.
  bool find_lists(Type type, const uint8_t* samples, size_t height, size_t width, std::vector<PlaneMap>& maps) {
    const size_t plane = height * width, size = size_of(type);
    int64_t alone = 0;
    std::vector<std::vector<uint32_t>> lists(maps.size());
    for (size_t p = 0; p < maps.size(); ++p) {
      const int64_t saved = packing_.saving(type, samples + p * plane * size, plane, lists[p]);
      if (saved > 0) {
        alone += saved;
      } else {
        lists[p].clear();
      }
    }
    dense_ = alone == 0;
    if (dense_) return false;
    const int64_t together = packing_.saving(type, samples, plane * maps.size(), keys_);
    if (alone < std::max<int64_t>(together, 0) + static_cast<int64_t>(plane * maps.size() / 16)) return false;
    for (size_t p = 0; p < maps.size(); ++p) {
      if (lists[p].empty()) continue;
      maps[p].keys = std::move(lists[p]);
      maps[p].gaps.clear();
    }
    return true;
  }

  // The widest gaps, where they make up much of what the values span; found between buckets of 2^16 keys.
  void find_gaps(Type type, const uint8_t* samples, size_t n, std::vector<Gap>& gaps) {
    lowest_.assign(kBuckets, 0xFFFFFFFFu);
    highest_.assign(kBuckets, 0);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t key = palette_key(type, samples + 4 * i), bucket = key >> 16;
      lowest_[bucket] = std::min(lowest_[bucket], key);
      highest_[bucket] = std::max(highest_[bucket], key);
    }
    uint32_t first = 0, before = 0;
    bool any = false;
    for (size_t b = 0; b < kBuckets; ++b) {
      if (lowest_[b] > highest_[b]) continue;
      if (!any) first = lowest_[b];
      if (any && lowest_[b] - before > 1) gaps.push_back({before, lowest_[b] - before - 1});
      before = highest_[b];
      any = true;
    }
    const uint32_t span = before - first;
    std::sort(gaps.begin(), gaps.end(), [](const Gap& a, const Gap& b) { return a.length > b.length; });
    if (gaps.size() > planes::kMaxGaps) gaps.resize(planes::kMaxGaps);
    uint64_t closed = 0;
    while (!gaps.empty() && gaps.back().length < span / 32) gaps.pop_back();
    for (const Gap& gap : gaps) closed += gap.length;
    if (span < kWideSpan || closed < span / 4) gaps.clear();
    std::sort(gaps.begin(), gaps.end(), [](const Gap& a, const Gap& b) { return a.below < b.below; });
  }

  // Planes of one size and of one inner type, numbered in the order in which they first occur.
  static void group(Type type, std::vector<PlaneMap>& maps) {
    std::vector<const PlaneMap*> first;
    for (PlaneMap& map : maps) {
      size_t g = 0;
      while (g < first.size() && !(first[g]->rows.count() == map.rows.count() && first[g]->columns.count() == map.columns.count() &&
                                   first[g]->inner(type) == map.inner(type)))
        ++g;
      if (g == first.size()) first.push_back(&map);
      map.group = g;
    }
  }

  static constexpr size_t kBuckets = 65536;
  static constexpr uint32_t kWideSpan = 1u << 26;  // narrower values never wrap in the transform
  Packing packing_;
  bool dense_ = false;
  std::vector<uint8_t> changes_, joint_, irregular_;
  std::vector<uint32_t> keys_, lowest_, highest_;
};

// --- In the frame --------------------------------------------------------------------------------------------

namespace planes {

enum How : uint8_t { kRows = 1, kColumns = 2, kListed = 4, kGaps = 8, kAsBefore = 16 };

// Planes of one size, which are one nested frame.
struct Group {
  size_t planes = 0, height = 0, width = 0;
  Type inner = Type::u8;
  const PlaneMap* last = nullptr;  // the map that the next plane may repeat

  size_t samples() const { return planes * height * width; }
};

inline void put_runs(const Runs& runs, std::vector<uint8_t>& out) {
  const uint32_t period = runs.period();
  frame::put_varint(out, period);
  if (period != 0) {
    frame::put_varint(out, runs.count() == 1 ? period : runs.begins[1]);
    return;
  }
  BitWriter w(out);
  size_t next = 1;
  for (size_t i = 1; i < runs.extent; ++i) {
    const bool begins = next < runs.count() && runs.begins[next] == i;
    next += begins;
    w.put_slow(begins, 1);
  }
  w.finish();
}

inline void take_runs(Bytes& in, Runs& runs) {
  runs.begins.assign(1, 0);
  const uint32_t period = frame::take_varint(in);
  if (period != 0) {
    const uint32_t first = frame::take_varint(in);
    if (period < 2 || period > runs.extent || first == 0 || first > period) throw Corrupt("a period is out of range");
    for (size_t i = first; i < runs.extent; i += period) runs.begins.push_back(static_cast<uint32_t>(i));
    return;
  }
  const size_t bytes = (runs.extent + 6) / 8;
  if (in.size < bytes) throw Corrupt("the frame ends in a map of rows or columns");
  BitReader r({in.data, bytes});
  for (size_t i = 1; i < runs.extent; ++i)
    if (r.get_slow(1) != 0) runs.begins.push_back(static_cast<uint32_t>(i));
  r.expect_end();
  in = {in.data + bytes, in.size - bytes};
}

inline void put_gaps(const std::vector<Gap>& gaps, std::vector<uint8_t>& out) {
  frame::put_varint(out, gaps.size());
  for (const Gap& gap : gaps) {
    frame::put_varint(out, gap.below);
    frame::put_varint(out, gap.length);
  }
}

inline void take_gaps(Bytes& in, std::vector<Gap>& gaps) {
  const size_t count = frame::take_varint(in);
  if (count == 0 || count > kMaxGaps) throw Corrupt("the number of gaps is out of range");
  uint64_t end = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t below = frame::take_varint(in), length = frame::take_varint(in);
    if (below < end || length == 0 || uint64_t{below} + length >= 0xFFFFFFFFu) throw Corrupt("a gap is out of range");
    gaps.push_back({below, length});
    end = uint64_t{below} + length + 1;
  }
}

inline uint32_t close_gaps(const std::vector<Gap>& gaps, uint32_t key) {
  uint32_t out = key;
  for (const Gap& gap : gaps)
    if (key > gap.below) out -= gap.length;
  return out;
}
inline uint32_t open_gaps(const std::vector<Gap>& gaps, uint32_t closed) {
  uint64_t key = closed;
  for (const Gap& gap : gaps)
    if (key > gap.below) key += gap.length;
  if (key > 0xFFFFFFFFu) throw Corrupt("a value is out of range");
  return static_cast<uint32_t>(key);
}

inline void put_map(const PlaneMap& map, const PlaneMap* before, std::vector<uint8_t>& out) {
  if (before != nullptr && same_map(map, *before)) return out.push_back(kAsBefore);
  const bool rows = !map.rows.whole(), columns = !map.columns.whole();
  out.push_back(static_cast<uint8_t>((rows ? kRows : 0) | (columns ? kColumns : 0) | (map.keys.empty() ? 0 : kListed) |
                                     (map.gaps.empty() ? 0 : kGaps)));
  if (rows) put_runs(map.rows, out);
  if (columns) put_runs(map.columns, out);
  if (!map.keys.empty()) write_palette(map.keys, out);
  if (!map.gaps.empty()) put_gaps(map.gaps, out);
}

// Everything but "as before". extents of both runs are set.
inline void take_map(Bytes& in, Type type, unsigned how, PlaneMap& map) {
  if (how >= kAsBefore) throw Corrupt("an unused field of the frame is not zero");
  if ((how & kRows) != 0) {
    take_runs(in, map.rows);
  } else {
    map.rows.keep_all(map.rows.extent);
  }
  if ((how & kColumns) != 0) {
    take_runs(in, map.columns);
  } else {
    map.columns.keep_all(map.columns.extent);
  }
  if ((how & kListed) != 0) read_palette(type, map.samples(), in, map.keys);
  if ((how & kGaps) == 0) return;
  if (size_of(type) < 4 || !map.keys.empty()) throw Corrupt("gaps are closed where there are none");
  take_gaps(in, map.gaps);
}

// Adds a plane with this map to its group.
inline void join(Group& group, Type type, const PlaneMap& map) {
  if (group.planes != 0 && (group.height != map.rows.count() || group.width != map.columns.count() || group.inner != map.inner(type)))
    throw Corrupt("planes of one group differ in size or type");
  ++group.planes;
  group.height = map.rows.count();
  group.width = map.columns.count();
  group.inner = map.inner(type);
  group.last = &map;
}

// The rows and columns of a plane that are kept, as samples of the inner type.
inline void gather(const uint8_t* plane, Type type, size_t width, const PlaneMap& map, uint8_t* out) {
  const Type inner = map.inner(type);
  const size_t size = size_of(type), step = size_of(inner);
  for (const uint32_t y : map.rows.begins)
    for (const uint32_t x : map.columns.begins) {
      const uint8_t* sample = plane + (y * width + x) * size;
      if (!map.keys.empty()) {
        const auto rank = std::lower_bound(map.keys.begin(), map.keys.end(), palette_key(type, sample)) - map.keys.begin();
        palette_store(inner, static_cast<uint32_t>(rank), out);
      } else if (!map.gaps.empty()) {
        store_le32(out, close_gaps(map.gaps, palette_key(type, sample)));
      } else {
        std::memcpy(out, sample, size);
      }
      out += step;
    }
}

// The key that a sample of the nested frame stands for.
inline uint32_t value_of(const PlaneMap& map, Type inner, const uint8_t* sample) {
  if (map.keys.empty()) return open_gaps(map.gaps, load_le32(sample));
  const size_t rank = palette_key(inner, sample);
  if (rank >= map.keys.size()) throw Corrupt("a rank is not in the list of values");
  return map.keys[rank];
}

// One plane of the tile from its plane of the nested frame, every 2^reduce-th row and column.
// row(y): where row y of the reduced plane goes.
template <class Row>
void scatter(const uint8_t* nested, const PlaneMap& map, Type type, unsigned reduce, Row&& row) {
  const Type inner = map.inner(type);
  const size_t size = size_of(type), step = size_of(inner), width = map.columns.count();
  // What a reduced size does not show must be sound as well, so that a frame is valid at every size or at none.
  if (reduce != 0 && !(map.keys.empty() && map.gaps.empty()))
    for (size_t i = 0; i < map.samples(); ++i) value_of(map, inner, nested + i * step);
  size_t at = 0;
  for (size_t y = 0; y < map.rows.extent; y += size_t{1} << reduce) {
    while (at + 1 < map.rows.count() && map.rows.begins[at + 1] <= y) ++at;
    const uint8_t* from = nested + at * width * step;
    uint8_t* out = row(y >> reduce);
    size_t column = 0;
    for (size_t x = 0; x < map.columns.extent; x += size_t{1} << reduce, out += size) {
      while (column + 1 < width && map.columns.begins[column + 1] <= x) ++column;
      const uint8_t* sample = from + column * step;
      if (map.keys.empty() && map.gaps.empty()) {
        std::memcpy(out, sample, size);
      } else {
        palette_store(type, value_of(map, inner, sample), out);
      }
    }
  }
}

// What follows a kPlanes prefix. code(samples, group, all, out) makes a nested frame; all: the group is
// the whole tile.
template <class Code>
void put(const uint8_t* samples, Type type, size_t height, size_t width, const std::vector<PlaneMap>& maps, Code&& code,
         std::vector<uint8_t>& out) {
  std::vector<Group> groups;
  for (const PlaneMap& map : maps) {
    if (map.group == groups.size()) groups.emplace_back();
    join(groups[map.group], type, map);
  }
  frame::put_varint(out, groups.size());
  for (Group& group : groups) group.last = nullptr;
  for (const PlaneMap& map : maps) {
    if (groups.size() > 1) frame::put_varint(out, map.group);
    put_map(map, groups[map.group].last, out);
    groups[map.group].last = &map;
  }
  std::vector<uint8_t> gathered, nested, body;
  for (size_t g = 0; g < groups.size(); ++g) {
    const size_t bytes = groups[g].height * groups[g].width * size_of(groups[g].inner);
    gathered.resize(groups[g].planes * bytes);
    uint8_t* at = gathered.data();
    for (size_t p = 0; p < maps.size(); ++p) {
      if (maps[p].group != g) continue;
      gather(samples + p * height * width * size_of(type), type, width, maps[p], at);
      at += bytes;
    }
    code(gathered.data(), groups[g], groups.size() == 1, nested);
    if (g + 1 < groups.size()) frame::put_varint(out, nested.size());
    body.insert(body.end(), nested.begin(), nested.end());
  }
  out.insert(out.end(), body.begin(), body.end());
}

// decode(data, group, all, out) decodes a nested frame; row(p, y): where that row of the reduced tile goes.
template <class Decode, class Row>
void take(Bytes in, Type type, size_t planes, size_t height, size_t width, unsigned reduce, Decode&& decode, Row&& row) {
  const size_t count = frame::take_varint(in);
  if (planes == 0 || planes > kMaxPlanes || count == 0 || count > planes) throw Corrupt("the frame has no groups, or more than planes");
  std::vector<Group> groups;
  std::vector<PlaneMap> maps(planes);
  std::vector<const PlaneMap*> used(planes);
  for (size_t p = 0; p < planes; ++p) {
    PlaneMap& map = maps[p];
    map.group = count > 1 ? frame::take_varint(in) : 0;
    if (map.group > groups.size() || map.group >= count) throw Corrupt("a group is numbered out of order");
    if (map.group == groups.size()) groups.emplace_back();
    Group& group = groups[map.group];
    map.rows.extent = height;
    map.columns.extent = width;
    const unsigned how = frame::take_byte(in);
    if (how != kAsBefore) {
      take_map(in, type, how, map);
    } else if (group.last == nullptr) {
      throw Corrupt("there is no plane whose map could be meant");
    }
    used[p] = how == kAsBefore ? group.last : &map;
    join(group, type, *used[p]);
  }
  if (groups.size() != count) throw Corrupt("a group has no planes");
  std::vector<size_t> lengths(count - 1);
  for (size_t& length : lengths) length = frame::take_varint(in);
  std::vector<uint8_t> nested;
  for (size_t g = 0; g < count; ++g) {
    const size_t length = g + 1 < count ? lengths[g] : in.size;
    if (length > in.size) throw Corrupt("a nested frame ends behind the frame");
    nested.resize(groups[g].samples() * size_of(groups[g].inner));
    decode(Bytes{in.data, length}, groups[g], count == 1, nested.data());
    in = {in.data + length, in.size - length};
    const uint8_t* from = nested.data();
    for (size_t p = 0; p < planes; ++p) {
      if (maps[p].group != g) continue;
      scatter(from, *used[p], type, reduce, [&](size_t y) { return row(p, y); });
      from += groups[g].height * groups[g].width * size_of(groups[g].inner);
    }
  }
}

}  // namespace planes
}  // namespace tilevault
