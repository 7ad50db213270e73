// Bits, least significant first, in bytes; and the one error that a decoder knows.
//
// A reader never looks past its span: bits beyond the end read as zero and are counted, so the hot
// loop needs no check per symbol; whoever reads asks overrun() once per row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace tilevault {

struct Corrupt : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Bytes {
  const uint8_t* data;
  size_t size;
};

inline unsigned bit_length(uint32_t v) { return v == 0 ? 0 : 32 - static_cast<unsigned>(__builtin_clz(v)); }

inline uint64_t load_le64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

inline void store_le64(uint8_t* p, uint64_t v) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  std::memcpy(p, &v, 8);
}

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& out) : out_(out), at_(out.size()) {}

  // Bytes for this many more bits are there before the hot loop starts.
  void reserve_bits(size_t bits) {
    if (out_.size() < at_ + bits / 8 + 16) out_.resize(at_ + bits / 8 + 16 + out_.size() / 2);
  }

  // The writer's state in registers, for a hot loop whose bits are reserved.
  class Cursor {
   public:
    explicit Cursor(BitWriter& w) : w_(w), p_(w.out_.data() + w.at_), held_(w.held_), fill_(w.fill_) {}

    // At most 57 bits between two flushes; value has no bits above count.
    void put(uint64_t value, unsigned count) {
      held_ |= value << fill_;
      fill_ += count;
    }
    void flush() {
      store_le64(p_, held_);
      p_ += fill_ >> 3;
      held_ >>= fill_ & 56u;  // fill < 64: never all of it
      fill_ &= 7;
    }
    void give_back() {
      w_.at_ = static_cast<size_t>(p_ - w_.out_.data());
      w_.held_ = held_;
      w_.fill_ = fill_;
    }

   private:
    BitWriter& w_;
    uint8_t* p_;
    uint64_t held_;
    unsigned fill_;
  };

  // For headers and tables, where speed does not matter. count <= 32.
  void put_slow(uint64_t value, unsigned count) {
    reserve_bits(64);
    Cursor c(*this);
    c.put(value, count);
    c.flush();
    c.give_back();
  }

  // The rest of the last byte is zero.
  void finish() {
    if (fill_ != 0) {
      reserve_bits(8);
      out_[at_++] = static_cast<uint8_t>(held_);
      held_ = 0;
      fill_ = 0;
    }
    out_.resize(at_);
  }

 private:
  std::vector<uint8_t>& out_;
  size_t at_;
  uint64_t held_ = 0;
  unsigned fill_ = 0;
};

class BitReader {
 public:
  explicit BitReader(Bytes in) : p_(in.data), end_(in.data + in.size) {}

  // At least 56 bits are held afterwards (zeros past the end).
  void refill() {
    if (end_ - p_ >= 8) {
      held_ |= load_le64(p_) << fill_;
      p_ += (63 - fill_) >> 3;
      fill_ |= 56;
      return;
    }
    while (fill_ <= 56) {
      if (p_ < end_) {
        held_ |= static_cast<uint64_t>(*p_++) << fill_;
      } else {
        past_ += 8;
      }
      fill_ += 8;
    }
  }

  uint64_t peek() const { return held_; }

  void skip(unsigned count) {
    held_ >>= count;
    fill_ -= count;
  }

  // count < 57 and held.
  uint32_t take(unsigned count) {
    const uint64_t v = held_ & ((uint64_t{1} << count) - 1);
    skip(count);
    return static_cast<uint32_t>(v);
  }

  uint32_t get_slow(unsigned count) {
    refill();
    const uint32_t v = take(count);
    if (overrun()) throw Corrupt("a bit stream ends before its content");
    return v;
  }

  // On to the next byte; what is skipped is zero.
  void align() {
    refill();
    const unsigned left = fill_ & 7;
    if ((held_ & ((1u << left) - 1)) != 0) throw Corrupt("the fill bits of a bit stream are not zero");
    skip(left);
    if (overrun()) throw Corrupt("a bit stream ends before its content");
  }

  // What follows, from a byte boundary.
  Bytes rest() const {
    const uint8_t* at = p_ - (fill_ - past_) / 8;
    return {at, static_cast<size_t>(end_ - at)};
  }

  // Bits were used that are not there.
  bool overrun() const { return past_ > fill_; }

  // The position is the end of the span but for the zero bits that fill the last byte.
  void expect_end() const {
    if (overrun()) throw Corrupt("a bit stream ends before its content");
    const uint64_t left = static_cast<uint64_t>(end_ - p_) * 8 + (fill_ - past_);
    if (left >= 8) throw Corrupt("bytes follow the end of a bit stream");
    if (left != 0 && (held_ & ((uint64_t{1} << left) - 1)) != 0)
      throw Corrupt("the fill bits of a bit stream are not zero");
  }

 private:
  const uint8_t* p_;
  const uint8_t* end_;
  uint64_t held_ = 0;
  uint64_t past_ = 0;
  unsigned fill_ = 0;
};

// Elias gamma code of value >= 1: as many zeros as there are bits below the top one, then the value
// with its top bit first moved to the front of the low bits.
inline void put_gamma(BitWriter& w, uint32_t value) {
  unsigned n = 31 - static_cast<unsigned>(__builtin_clz(value));
  w.put_slow(uint64_t{1} << n, n + 1);
  w.put_slow(value & ((uint32_t{1} << n) - 1), n);
}

inline uint32_t get_gamma(BitReader& r) {
  unsigned n = 0;
  while (r.get_slow(1) == 0)
    if (++n > 31) throw Corrupt("a gamma code is too long");
  return (uint32_t{1} << n) | (n != 0 ? r.get_slow(n) : 0u);
}

}  // namespace tilevault
