// Samples of the seven pixel types to 32-bit words and back: little-endian bytes on one side, words on
// which the transform works on the other.
//
// 8 and 16 bit: the value. 32 bit: the value's rank among all values of its type (order-preserving
// for floats, NaNs and -0.0 included), minus a base near the middle of the tile, modulo 2^32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bits.hpp"

namespace tilevault {

enum class Type : uint8_t { u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6 };
constexpr unsigned kTypes = 7;

inline size_t size_of(Type t) {
  switch (t) {
    case Type::u8:
    case Type::i8: return 1;
    case Type::u16:
    case Type::i16: return 2;
    default: return 4;
  }
}

inline uint32_t rank_of(Type type, uint32_t bits) {
  if (type == Type::i32) return bits ^ 0x80000000u;
  if (type == Type::f32) return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
  return bits;
}
inline uint32_t from_rank(Type type, uint32_t rank) {
  if (type == Type::i32) return rank ^ 0x80000000u;
  if (type == Type::f32) return rank ^ ((rank >> 31) != 0 ? 0x80000000u : 0xFFFFFFFFu);
  return rank;
}

inline uint32_t load_le32(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}
inline uint16_t load_le16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap16(v);
#endif
  return v;
}

// n samples to words.
inline void load_words(Type type, const uint8_t* in, size_t n, uint32_t base, int32_t* out) {
  switch (type) {
    case Type::u8:
      for (size_t i = 0; i < n; ++i) out[i] = in[i];
      break;
    case Type::i8:
      for (size_t i = 0; i < n; ++i) out[i] = static_cast<int8_t>(in[i]);
      break;
    case Type::u16:
      for (size_t i = 0; i < n; ++i) out[i] = load_le16(in + 2 * i);
      break;
    case Type::i16:
      for (size_t i = 0; i < n; ++i) out[i] = static_cast<int16_t>(load_le16(in + 2 * i));
      break;
    default:
      for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(rank_of(type, load_le32(in + 4 * i)) - base);
  }
}

inline void store_le16(uint8_t* p, uint32_t v) {
  auto word = static_cast<uint16_t>(v);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap16(word);
#endif
  std::memcpy(p, &word, 2);
}
inline void store_le32(uint8_t* p, uint32_t v) {
  store_le16(p, v);
  store_le16(p + 2, v >> 16);
}

struct Range {
  int32_t low, high;
};
inline Range range_of(Type type) {
  switch (type) {
    case Type::u8: return {0, 255};
    case Type::i8: return {-128, 127};
    case Type::u16: return {0, 65535};
    case Type::i16: return {-32768, 32767};
    default: return {INT32_MIN, INT32_MAX};
  }
}

// n words to samples, clamped to the type (a low band may leave the range of its pixels). Tells whether
// nothing had to be clamped; 32-bit words of full size wrap instead.
inline bool store_words(Type type, const int32_t* in, size_t n, uint32_t base, bool wrap, uint8_t* out) {
  const Range range = range_of(type);
  int32_t outside = 0;
  const size_t size = size_of(type);
  if (size < 4) {
    for (size_t i = 0; i < n; ++i) outside |= static_cast<int32_t>(in[i] < range.low) | static_cast<int32_t>(in[i] > range.high);
    if (size == 1) {
      for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(std::clamp(in[i], range.low, range.high));
    } else {
      for (size_t i = 0; i < n; ++i) store_le16(out + 2 * i, static_cast<uint32_t>(std::clamp(in[i], range.low, range.high)));
    }
    return outside == 0;
  }
  for (size_t i = 0; i < n; ++i) {
    uint32_t rank = static_cast<uint32_t>(in[i]) + base;
    if (!wrap) {
      const int64_t exact = int64_t{in[i]} + base;
      rank = exact < 0 ? 0u : exact > int64_t{0xFFFFFFFF} ? 0xFFFFFFFFu : static_cast<uint32_t>(exact);
    }
    store_le32(out + 4 * i, from_rank(type, rank));
  }
  return true;
}

// The middle between the least and the greatest rank of n 32-bit samples, rounded down; 0 for smaller types.
// Neighbours' sums then fit a word whatever the offset of the values.
class BaseOf {
 public:
  explicit BaseOf(Type type) : type_(type) {}
  void add(const uint8_t* in, size_t n) {
    if (size_of(type_) < 4) return;
    for (size_t i = 0; i < n; ++i) {
      const uint32_t rank = rank_of(type_, load_le32(in + 4 * i));
      low_ = std::min(low_, rank);
      high_ = std::max(high_, rank);
    }
  }
  uint32_t base() const { return size_of(type_) < 4 ? 0 : low_ + (high_ - low_) / 2; }

 private:
  Type type_;
  uint32_t low_ = 0xFFFFFFFFu, high_ = 0;
};

}  // namespace tilevault
