// Every instruction set writes the same bytes. Built with dispatch and without (TILEVAULT_PORTABLE): both must give
// the digest below, which only a change of the encoder may change. Tiles are large enough for fitted predictions,
// whose sums of floats a compiler that fuses would round otherwise.
#include <cstdio>

#include "samples.hpp"

using namespace tilevault;

namespace {

constexpr uint64_t kGolden = 0x45BAD9023E7C0D57ull;

// FNV-1a, 64 bits.
void add(uint64_t& digest, const std::vector<uint8_t>& bytes) {
  for (const uint8_t b : bytes) digest = (digest ^ b) * 1099511628211ull;
}

}  // namespace

int main() {
  Random random{88172645463325252ull};
  Shape shape;
  shape.rank = 3;
  shape.extent = {3, 130, 150};
  uint64_t digest = 14695981039346656037ull;
  std::vector<uint8_t> frame;
  for (unsigned type = 0; type < kTypes; ++type)
    for (unsigned texture = 0; texture < kTextures; ++texture) {
      const Type t = static_cast<Type>(type);
      const auto samples = make_tile(t, shape, texture, random);
      for (const Prefer prefer : {Prefer::resolution, Prefer::size})
        for (const Coder coder : {Coder::ans, Coder::huffman}) {
          TileEncoder::encode(samples.data(), t, shape, 5, texture % 2 == 0, prefer, coder, frame);
          add(digest, frame);
        }
    }
  if (digest == kGolden) return 0;
  std::printf("encoded bytes have the digest 0x%llX\n", static_cast<unsigned long long>(digest));
  return 1;
}
