// Histogram packing: when the values that occur leave gaps between them, their ranks are coded in
// their place. Digitised film, windowed and rescaled images are like that: a comb of values.
#pragma once

#include <algorithm>
#include <vector>

#include "samples.hpp"

namespace tilevault {

constexpr size_t kMaxValues = 65536;

// Values in the order of rank: for 8 and 16 bit the word itself plus 2^15 (so that it is not negative).
inline uint32_t palette_key(Type type, const uint8_t* p) {
  switch (type) {
    case Type::u8: return p[0];
    case Type::i8: return static_cast<uint32_t>(static_cast<int8_t>(p[0]) + 32768);
    case Type::u16: return load_le16(p);
    case Type::i16: return static_cast<uint32_t>(static_cast<int16_t>(load_le16(p)) + 32768);
    default: return rank_of(type, load_le32(p));
  }
}
inline void palette_store(Type type, uint32_t key, uint8_t* p) {
  switch (type) {
    case Type::u8:
    case Type::i8: p[0] = static_cast<uint8_t>(key); break;
    case Type::u16: store_le16(p, key); break;
    case Type::i16: store_le16(p, key - 32768u); break;
    default: store_le32(p, from_rank(type, key));
  }
}
// A key that a type cannot have is damage.
inline bool palette_key_valid(Type type, uint32_t key) {
  switch (type) {
    case Type::u8: return key <= 255;
    case Type::i8: return key >= 32768 - 128 && key <= 32768 + 127;
    case Type::u16:
    case Type::i16: return key <= 65535;
    default: return true;
  }
}

// The first key as 32 bits, the gaps between neighbours minus 1 as Rice codes of one parameter.
inline unsigned rice_parameter(const std::vector<uint32_t>& keys, uint64_t& bits) {
  unsigned best = 0;
  bits = ~uint64_t{0};
  for (unsigned k = 0; k < 32; ++k) {
    uint64_t sum = 0;
    for (size_t i = 1; i < keys.size() && sum < bits; ++i) {
      const uint32_t quotient = (keys[i] - keys[i - 1] - 1) >> k;
      sum += quotient < 24 ? quotient + 1 + k : 24 + 32;
    }
    if (sum < bits) {
      bits = sum;
      best = k;
    }
  }
  return best;
}

inline void write_palette(const std::vector<uint32_t>& keys, std::vector<uint8_t>& out) {
  uint64_t bits;
  const unsigned k = rice_parameter(keys, bits);
  BitWriter w(out);
  w.put_slow(keys.size() - 1, 16);
  w.put_slow(k, 5);
  w.put_slow(keys[0], 32);
  for (size_t i = 1; i < keys.size(); ++i) {
    const uint32_t gap = keys[i] - keys[i - 1] - 1, quotient = gap >> k;
    if (quotient < 24) {
      w.put_slow(uint64_t{1} << quotient, quotient + 1);
      w.put_slow(gap & ((uint64_t{1} << k) - 1), k);
    } else {
      w.put_slow(0, 24);
      w.put_slow(gap, 32);
    }
  }
  w.finish();
}

// Reads the values and moves `in` behind them.
inline void read_palette(Type type, size_t samples, Bytes& in, std::vector<uint32_t>& keys) {
  BitReader r(in);
  const size_t n = r.get_slow(16) + size_t{1};
  if (n > samples) throw Corrupt("more values than samples");
  const unsigned k = r.get_slow(5);
  keys.resize(n);
  uint64_t key = r.get_slow(32);
  keys[0] = static_cast<uint32_t>(key);
  for (size_t i = 1; i < n; ++i) {
    unsigned quotient = 0;
    while (quotient < 24 && r.get_slow(1) == 0) ++quotient;
    const uint64_t gap = quotient < 24 ? uint64_t{quotient} << k | r.get_slow(k) : r.get_slow(32);
    key += gap + 1;
    if (key > 0xFFFFFFFFu) throw Corrupt("a value is out of range");
    keys[i] = static_cast<uint32_t>(key);
  }
  if (!palette_key_valid(type, keys[0]) || !palette_key_valid(type, keys[n - 1])) throw Corrupt("a value is out of range");
  r.align();
  in = r.rest();
}

// Whether packing pays: log2 of the gap around each sample against the cost of the list of values.
// The gap is an average over the neighbourhood, so that rare values far out do not count for the many.
class Packing {
 public:
  // Fills keys with the values of n samples, in order, or returns false if packing does not pay.
  bool decide(Type type, const uint8_t* in, size_t n, std::vector<uint32_t>& keys) { return saving(type, in, n, keys) > 0; }

  // Bits that packing saves beyond what makes it worth while; keys are filled where that is not 0.
  int64_t saving(Type type, const uint8_t* in, size_t n, std::vector<uint32_t>& keys) {
    const bool small = size_of(type) < 4;
    if (n < 64) return 0;
    if (small ? !count_small(type, in, n) : !count_large(type, in, n)) return 0;
    keys.clear();
    for (const Entry& e : entries_) keys.push_back(e.key);
    if (keys.size() < 2 || keys.back() - keys.front() + uint64_t{1} == keys.size()) return 0;
    constexpr size_t kAround = 6;
    uint64_t gain = 0;  // 1/16 bits
    for (size_t i = 0; i < entries_.size(); ++i) {
      const size_t a = i < kAround ? 0 : i - kAround, b = std::min(i + kAround, entries_.size() - 1);
      const uint64_t sixteenths = (uint64_t{entries_[b].key - entries_[a].key} << 4) / (b - a);
      gain += entries_[i].count * uint64_t{log2_16(sixteenths)};
    }
    if (gain / 16 <= n / 32 + 400) return 0;
    uint64_t bits;
    rice_parameter(keys, bits);
    return static_cast<int64_t>(gain / 16) - static_cast<int64_t>(2 * bits + n / 32 + 400);
  }

 private:
  struct Entry {
    uint32_t key, count;
  };

  // 16 * log2(v / 16) for v >= 16, linear between powers of two.
  static unsigned log2_16(uint64_t v) {
    if (v < 16) return 0;
    const unsigned top = 63 - static_cast<unsigned>(__builtin_clzll(v));
    return (top - 4) * 16 + static_cast<unsigned>((v >> (top - 4)) & 15);
  }

  bool count_small(Type type, const uint8_t* in, size_t n) {
    switch (type) {
      case Type::u8: count_keys(n, [in](size_t i) { return uint32_t{in[i]}; }); break;
      case Type::i8: count_keys(n, [in](size_t i) { return palette_key(Type::i8, in + i); }); break;
      case Type::u16: count_keys(n, [in](size_t i) { return uint32_t{load_le16(in + 2 * i)}; }); break;
      default: count_keys(n, [in](size_t i) { return palette_key(Type::i16, in + 2 * i); });
    }
    return true;
  }

  // Two tables in turn: equal neighbours would wait for each other's count.
  template <class Key>
  void count_keys(size_t n, Key&& key) {
    uint32_t low = key(0), high = low;
    for (size_t i = 1; i < n; ++i) {
      low = std::min(low, key(i));
      high = std::max(high, key(i));
    }
    const size_t span = high - low + size_t{1};
    counts_.assign(2 * span, 0);
    uint32_t *even = counts_.data(), *odd = even + span;
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
      ++even[key(i) - low];
      ++odd[key(i + 1) - low];
    }
    if (i < n) ++even[key(i) - low];
    entries_.clear();
    for (size_t k = 0; k < span; ++k)
      if (even[k] + odd[k] != 0) entries_.push_back({static_cast<uint32_t>(low + k), even[k] + odd[k]});
  }

  // A hash table that gives up as soon as there are too many values to be worth a list, or too many collisions.
  bool count_large(Type type, const uint8_t* in, size_t n) {
    const size_t limit = std::min(kMaxValues, n / 4);
    table_.assign(kMaxValues * 2, Entry{0, 0});
    entries_.clear();
    size_t used = 0, collisions = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t key = palette_key(type, in + 4 * i);
      size_t at = (key * 2654435761u) >> 15;
      while (table_[at].count != 0 && table_[at].key != key) {
        at = (at + 1) & (kMaxValues * 2 - 1);
        if (++collisions > 8 * n + kMaxValues) return false;
      }
      if (table_[at].count++ == 0) {
        table_[at].key = key;
        if (++used > limit) return false;
      }
    }
    for (const Entry& e : table_)
      if (e.count != 0) entries_.push_back(e);
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.key < b.key; });
    return true;
  }

  std::vector<uint32_t> counts_;
  std::vector<Entry> entries_, table_;
};

}  // namespace tilevault
