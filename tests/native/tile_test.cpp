// The native core without Python: what is encoded comes back, a prefix serves its resolution, and damage is
// an exception or pixels, never anything else. Meant for the sanitizers.
#include <cstdio>
#include <cstdlib>

#include "samples.hpp"

using namespace tilevault;

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);          \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

namespace {

constexpr unsigned kLevels = 5;

size_t reduced_bytes(Type type, const Shape& shape, unsigned reduce) {
  return shape.planes() * (((shape.height() - 1) >> reduce) + 1) * (((shape.width() - 1) >> reduce) + 1) * size_of(type);
}

// Decoded pixels, or nothing if the bytes were refused. The input is copied to its exact size, so that the
// sanitizer sees a read one byte too far.
bool decodes(const uint8_t* data, size_t size, Type type, const Shape& shape, unsigned reduce, std::vector<uint8_t>& out) {
  const std::vector<uint8_t> exact(data, data + size);
  out.assign(reduced_bytes(type, shape, reduce), 0);
  try {
    TileDecoder::decode({exact.data(), exact.size()}, type, shape, reduce, kLevels, out.data());
    return true;
  } catch (const Corrupt&) {
    return false;
  }
}

Shape shape_of(std::initializer_list<size_t> extents) {
  Shape shape;
  for (size_t n : extents) shape.extent[shape.rank++] = n;
  return shape;
}

void round_trips(Random& random) {
  const Shape shapes[] = {shape_of({1, 1}), shape_of({1, 37}), shape_of({37, 1}), shape_of({2, 2}), shape_of({33, 65}),
                          shape_of({3, 17, 20}), shape_of({2, 3, 9, 31}), shape_of({2, 1, 4, 5, 6}), shape_of({130, 96})};
  for (const Shape& shape : shapes)
    for (unsigned type = 0; type < kTypes; ++type)
      for (unsigned texture = 0; texture < kTextures; ++texture)
        for (const bool pack : {false, true}) {
          const Type t = static_cast<Type>(type);
          const auto samples = make_tile(t, shape, texture, random);
          std::vector<uint8_t> data, out;
          TileEncoder::encode(samples.data(), t, shape, kLevels, pack, data);
          CHECK(data.size() <= samples.size() + 16);
          CHECK(decodes(data.data(), data.size(), t, shape, 0, out));
          CHECK(out == samples);
          std::vector<size_t> ends;
          TileDecoder::segment_ends({data.data(), data.size()}, t, kLevels, ends);
          for (unsigned reduce = 1; reduce <= kLevels; ++reduce) {
            const unsigned used = static_cast<unsigned>(ends.size());
            const size_t end = used <= reduce ? (used == 0 ? data.size() : ends[0]) : ends[used - 1 - reduce];
            std::vector<uint8_t> prefix;
            CHECK(decodes(data.data(), data.size(), t, shape, reduce, out));
            CHECK(decodes(data.data(), end, t, shape, reduce, prefix));
            CHECK(out == prefix);
          }
        }
}

void threats(Random& random) {
  const Shape shape = shape_of({2, 12, 15});
  for (unsigned type = 0; type < kTypes; ++type)
    for (unsigned texture = 0; texture < kTextures; ++texture) {
      const Type t = static_cast<Type>(type);
      const auto samples = make_tile(t, shape, texture, random);
      std::vector<uint8_t> data, out;
      TileEncoder::encode(samples.data(), t, shape, kLevels, true, data);
      for (size_t n = 0; n < data.size(); ++n) CHECK(!decodes(data.data(), n, t, shape, 0, out));
      for (size_t bit = 0; bit < 8 * data.size() && bit < 4000; ++bit) {
        data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
        decodes(data.data(), data.size(), t, shape, static_cast<unsigned>(bit % (kLevels + 1)), out);
        data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
      }
      data.push_back(0);
      CHECK(!decodes(data.data(), data.size(), t, shape, 0, out));
    }
}

}  // namespace

int main() {
  Random random{88172645463325252ull};
  round_trips(random);
  threats(random);
  std::puts("tile_test: ok");
  return 0;
}
