// LLVMFuzzerTestOneInput for the tile decoder, for libFuzzer or AFL++; without them a main() that mutates
// encoded seeds: tile_fuzz [executions] [seed], or tile_fuzz FILE... to run single inputs again.
//
// Input: 6 bytes of choices (type, reduce, rank, three extents), then the frame.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "samples.hpp"

using namespace tilevault;

namespace {
constexpr unsigned kLevels = 5;
constexpr size_t kChoices = 6;

Shape chosen_shape(const uint8_t* c) {
  Shape shape;
  shape.rank = 2 + c[2] % 4;
  shape.extent.fill(1);
  shape.extent[shape.rank - 1] = 1 + c[5] % 64;
  shape.extent[shape.rank - 2] = 1 + c[4] % 140;  // from 128 rows on a predicted plane is two stripes
  if (shape.rank > 2) shape.extent[shape.rank - 3] = 1 + c[3] % 5;
  return shape;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kChoices) return 0;
  const Type type = static_cast<Type>(data[0] % kTypes);
  const unsigned reduce = data[1] % (kLevels + 1);
  const Shape shape = chosen_shape(data);
  std::vector<uint8_t> out(shape.samples() * size_of(type));
  const Bytes frame{data + kChoices, size - kChoices};
  try {
    std::vector<size_t> ends;
    TileDecoder::segment_ends(frame, type, kLevels, ends);
    if (!ends.empty() && ends.back() != frame.size) std::abort();
  } catch (const Corrupt&) {
  }
  try {
    TileDecoder::decode(frame, type, shape, reduce, kLevels, out.data());
  } catch (const Corrupt&) {
  }
  return 0;
}

#ifndef TILEVAULT_NO_MAIN
namespace {

std::vector<uint8_t> seed_input(Random& random) {
  uint8_t choices[kChoices];
  for (uint8_t& c : choices) c = static_cast<uint8_t>(random.next());
  const Type type = static_cast<Type>(choices[0] % kTypes);
  const Shape shape = chosen_shape(choices);
  std::vector<uint8_t> input(choices, choices + kChoices), frame;
  TileEncoder::encode(make_tile(type, shape, random.below(kTextures), random).data(), type, shape, kLevels,
                      random.below(2) != 0, random.below(3) == 0 ? Prefer::size : Prefer::resolution,
                      random.below(2) != 0 ? Coder::huffman : Coder::ans, frame);
  input.insert(input.end(), frame.begin(), frame.end());
  return input;
}

// Most damage near the front, where headers and tables are.
void mutate(std::vector<uint8_t>& input, Random& random) {
  for (unsigned n = 1 + random.below(4); n != 0; --n) {
    const auto size = static_cast<uint32_t>(input.size());
    if (size <= kChoices + 1) return;
    const uint32_t span = random.below(2) != 0 ? size : std::min<uint32_t>(size, 80);
    const uint32_t at = random.below(span);
    switch (random.below(6)) {
      case 0: input[at] = static_cast<uint8_t>(input[at] ^ 1u << random.below(8)); break;
      case 1: input[at] = static_cast<uint8_t>(random.next()); break;
      case 2: input[at] = random.below(2) != 0 ? 0xFF : 0; break;
      case 3: input.resize(std::max<size_t>(at, kChoices)); break;
      case 4: input.insert(input.begin() + at, static_cast<uint8_t>(random.next())); break;
      default: input.erase(input.begin() + at);
    }
  }
}

int run_file(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return 1;
  std::vector<uint8_t> input;
  for (int c; (c = std::fgetc(file)) != EOF;) input.push_back(static_cast<uint8_t>(c));
  std::fclose(file);
  return LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  const bool number = argc < 2 || std::strspn(argv[1], "0123456789") == std::strlen(argv[1]);
  if (!number) {
    for (int i = 1; i < argc; ++i)
      if (run_file(argv[i]) != 0) return 1;
    return 0;
  }
  const unsigned long executions = argc > 1 ? std::stoul(argv[1]) : 100000;
  Random random{argc > 2 ? std::stoull(argv[2]) * 2 + 1 : 0x9E3779B97F4A7C15ull};
  std::vector<uint8_t> seed;
  for (unsigned long i = 0; i < executions; ++i) {
    if (i % 64 == 0) seed = seed_input(random);
    std::vector<uint8_t> input = seed;
    mutate(input, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("tile_fuzz: %lu executions\n", executions);
  return 0;
}
#endif
