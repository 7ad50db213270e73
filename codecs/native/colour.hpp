// YCoCg-R (Malvar and Sullivan 2003) on the coefficients of planes R, G, B, so that every resolution
// comes out as if there had been no colour transform.
#pragma once

#include <array>
#include <vector>

#include "subbands.hpp"

namespace tilevault {

class Colour {
 public:
  // No transform.
  Colour() = default;
  // Planes 0, 1, 2 along an axis of `extent`, `inner` planes apart.
  Colour(size_t planes, size_t extent, size_t inner) {
    for (size_t o = 0; o < planes / (inner * extent); ++o)
      for (size_t i = 0; i < inner; ++i) triples_.push_back({o * extent * inner + i, inner});
  }
  explicit operator bool() const { return !triples_.empty(); }

  // Planes of `size` words each, one behind the other.
  void apply(int32_t* planes, size_t size) const {
    each(planes, size, forward);
  }
  void undo(int32_t* planes, size_t size) const {
    each(planes, size, inverse);
  }
  template <class Step>
  void each(int32_t* planes, size_t size, Step&& step) const {
    for (const Triple& t : triples_) {
      int32_t* p = planes + t.first * size;
      int32_t *q = p + t.apart * size, *r = q + t.apart * size;
      for (size_t x = 0; x < size; ++x) step(p[x], q[x], r[x]);
    }
  }

  static void forward(int32_t& r, int32_t& g, int32_t& b) {
    using namespace lifting;
    const int32_t co = sub(r, b), t = add(b, co >> 1), cg = sub(g, t);
    r = add(t, cg >> 1);
    g = co;
    b = cg;
  }
  static void inverse(int32_t& y, int32_t& co, int32_t& cg) {
    using namespace lifting;
    const int32_t t = sub(y, cg >> 1), g = add(cg, t), b = sub(t, co >> 1);
    y = add(b, co);
    co = g;
    cg = b;
  }

 private:
  struct Triple {
    size_t first, apart;
  };
  std::vector<Triple> triples_;
};

}  // namespace tilevault
