// Reversible colour transforms of three planes: of the wavelet's coefficients, so that every resolution comes
// out as if there had been none, or of the words themselves where there are no resolutions.
//
// Which one is smallest depends on which colours an image has: the encoder chooses for each tile.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include "subbands.hpp"

namespace tilevault {

// What becomes of a, b, c, the planes in some order.
enum class Mix : uint8_t {
  ycocg,     // YCoCg-R (Malvar and Sullivan 2003)
  from_one,  // a, b - a, c - a
  from_two,  // a, b - a, c - (a + b) / 2
  rct,       // RCT (ISO/IEC 15444-1 G.2): about (a + 2b + c) / 4, c - b, a - b
};
constexpr unsigned kMixes = 4;

constexpr std::array<std::array<uint8_t, 3>, 6> kOrders = {{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};

// One of the transforms: which of the planes are a, b, c (one of kOrders), and what is made of them.
struct ColourKind {
  uint8_t order = 0;
  Mix mix = Mix::ycocg;
};
inline bool operator==(ColourKind x, ColourKind y) { return x.order == y.order && x.mix == y.mix; }

namespace mixes {

template <Mix mix>
inline void forward(int32_t a, int32_t b, int32_t c, int32_t* out) {
  using namespace lifting;
  if constexpr (mix == Mix::ycocg) {
    const int32_t co = sub(a, c), t = add(c, co >> 1), cg = sub(b, t);
    out[0] = add(t, cg >> 1), out[1] = co, out[2] = cg;
  } else if constexpr (mix == Mix::rct) {
    const int32_t u = sub(c, b), v = sub(a, b);
    out[0] = add(b, add(u, v) >> 2), out[1] = u, out[2] = v;
  } else {
    out[0] = a, out[1] = sub(b, a), out[2] = sub(c, mix == Mix::from_one ? a : add(a, b) >> 1);
  }
}

template <Mix mix>
inline void inverse(int32_t x, int32_t y, int32_t z, int32_t* out) {
  using namespace lifting;
  if constexpr (mix == Mix::ycocg) {
    const int32_t t = sub(x, z >> 1);
    out[1] = add(z, t);
    out[2] = sub(t, y >> 1);
    out[0] = add(out[2], y);
  } else if constexpr (mix == Mix::rct) {
    out[1] = sub(x, add(y, z) >> 2);
    out[2] = add(y, out[1]);
    out[0] = add(z, out[1]);
  } else {
    out[0] = x;
    out[1] = add(y, x);
    out[2] = add(z, mix == Mix::from_one ? x : add(x, out[1]) >> 1);
  }
}

// each(x): calls step<mix>() with the mix as a constant.
template <class Each>
void with(Mix mix, Each&& each) {
  switch (mix) {
    case Mix::ycocg: return each(std::integral_constant<Mix, Mix::ycocg>());
    case Mix::from_one: return each(std::integral_constant<Mix, Mix::from_one>());
    case Mix::from_two: return each(std::integral_constant<Mix, Mix::from_two>());
    case Mix::rct: return each(std::integral_constant<Mix, Mix::rct>());
  }
}

}  // namespace mixes

class Colour {
 public:
  // No transform.
  Colour() = default;
  // Planes 0, 1, 2 along an axis of `extent`, `inner` planes apart.
  Colour(size_t planes, size_t extent, size_t inner, ColourKind kind = {}) : kind_(kind) {
    for (size_t o = 0; o < planes / (inner * extent); ++o)
      for (size_t i = 0; i < inner; ++i) triples_.push_back({o * extent * inner + i, inner});
  }
  // The same planes, mixed in another way.
  Colour of_kind(ColourKind kind) const {
    Colour out = *this;
    out.kind_ = kind;
    return out;
  }
  explicit operator bool() const { return !triples_.empty(); }

  // Planes of `size` words each, one behind the other.
  void apply(int32_t* planes, size_t size) const {
    const auto& order = kOrders[kind_.order];
    mixes::with(kind_.mix, [&](auto mix) {
      for (const Triple& t : triples_) {
        const std::array<int32_t*, 3> p = of(planes, size, t);
        const int32_t *a = p[order[0]], *b = p[order[1]], *c = p[order[2]];
        for (size_t x = 0; x < size; ++x) {
          int32_t coded[3];
          mixes::forward<decltype(mix)::value>(a[x], b[x], c[x], coded);
          p[0][x] = coded[0], p[1][x] = coded[1], p[2][x] = coded[2];
        }
      }
    });
  }
  void undo(int32_t* planes, size_t size) const {
    const auto& order = kOrders[kind_.order];
    mixes::with(kind_.mix, [&](auto mix) {
      for (const Triple& t : triples_) {
        const std::array<int32_t*, 3> p = of(planes, size, t);
        int32_t *a = p[order[0]], *b = p[order[1]], *c = p[order[2]];
        for (size_t x = 0; x < size; ++x) {
          int32_t real[3];
          mixes::inverse<decltype(mix)::value>(p[0][x], p[1][x], p[2][x], real);
          a[x] = real[0], b[x] = real[1], c[x] = real[2];
        }
      }
    });
  }

 private:
  friend class ColourChoice;
  struct Triple {
    size_t first, apart;
  };
  static std::array<int32_t*, 3> of(int32_t* planes, size_t size, const Triple& t) {
    int32_t* p = planes + t.first * size;
    return {p, p + t.apart * size, p + 2 * t.apart * size};
  }

  std::vector<Triple> triples_;
  ColourKind kind_;
};

}  // namespace tilevault
