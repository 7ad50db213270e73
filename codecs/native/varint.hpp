// Numbers in the headers of frames: one byte, or base 128 with the least significant group first.
#pragma once

#include "bits.hpp"

namespace tilevault {
namespace frame {

inline void put_varint(std::vector<uint8_t>& out, uint64_t v) {
  for (; v >= 128; v >>= 7) out.push_back(static_cast<uint8_t>(v | 128));
  out.push_back(static_cast<uint8_t>(v));
}

inline uint8_t take_byte(Bytes& in) {
  if (in.size == 0) throw Corrupt("the frame ends in its header");
  --in.size;
  return *in.data++;
}

// At most 32 bits, the shortest form only.
inline uint32_t take_varint(Bytes& in) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 35; shift += 7) {
    const uint8_t b = take_byte(in);
    v |= uint64_t{b & 127u} << shift;
    if ((b & 128) == 0) {
      if ((b == 0 && shift != 0) || v > 0xFFFFFFFFu) break;
      return static_cast<uint32_t>(v);
    }
  }
  throw Corrupt("a number in the header is out of range");
}

}  // namespace frame
}  // namespace tilevault
