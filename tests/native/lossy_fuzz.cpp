// LLVMFuzzerTestOneInput for the learned codec's decoder, for libFuzzer or AFL++; without them a main() that
// mutates encoded seeds: lossy_fuzz [executions] [seed], or lossy_fuzz FILE... to run single inputs again.
//
// Input: 4 bytes of choices (model, three extents), then the tile, or, with an odd model, a model that is
// damaged at the places that the rest says (u16 place, u8 value) and then decodes a tile.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "lossy_samples.hpp"

using tilevault::Bytes;
using tilevault::Corrupt;
using namespace tilevault::lossy;

namespace {
constexpr size_t kChoices = 4;
constexpr int32_t kLeast = -500, kMost = 3595;

TileShape chosen_shape(const uint8_t* c) { return {size_t{1} + c[1] % 4, size_t{1} + c[2] % 100, size_t{1} + c[3] % 100}; }

const std::vector<uint8_t>& blob() {
  static const std::vector<uint8_t> made = [] {
    Random random{88172645463325252ull};
    return make_model(random);
  }();
  return made;
}
const Model& model() {
  static const Model made({blob().data(), blob().size()});
  return made;
}

std::vector<uint8_t> encoded(const Model& with, TileShape shape, unsigned texture, unsigned code, double slope, Random& random) {
  const std::vector<int32_t> samples = make_planes(shape, texture, 12, kLeast, random.below(2) != 0, random);
  std::vector<int32_t> plain(samples.size()), restored(samples.size());
  std::vector<uint8_t> out;
  TileEncoder(with, code, slope, random.below(2) != 0).encode(samples.data(), shape, kLeast, kMost, plain.data(), restored.data(), out);
  return out;
}

// Refused, or all samples are in bounds.
void decode(const Model& with, Bytes data, TileShape shape) {
  std::vector<int32_t> plain(shape.samples(), kLeast - 1), restored = plain;
  try {
    decode_tile(with, data, shape, kLeast, kMost, plain.data(), restored.data());
  } catch (const Corrupt&) {
    return;
  }
  for (size_t i = 0; i < plain.size(); ++i)
    if (plain[i] < kLeast || plain[i] > kMost || restored[i] < kLeast || restored[i] > kMost) std::abort();
}

void damaged_model(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes = blob();
  const size_t networks = 8 + 2 * kLogs + 2 * 128 + 2 * 16 + 256 + 64 + 2 * 512 * kTokens;
  for (; size >= 3; data += 3, size -= 3) {
    const size_t at = tilevault::load_le16(data);
    bytes[at % 4 == 0 ? at % bytes.size() : networks + at % (bytes.size() - networks)] = data[2];
  }
  const TileShape shape{1, 40, 37};
  Random random{12345};
  static const std::vector<uint8_t> tile = encoded(model(), shape, 8, 500, 4, random);
  try {
    const Model damaged({bytes.data(), bytes.size()});
    decode(damaged, {tile.data(), tile.size()}, shape);
    const std::vector<uint8_t> again = encoded(damaged, shape, 8, 500, 4, random);
    decode(damaged, {again.data(), again.size()}, shape);
  } catch (const Corrupt&) {
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kChoices) return 0;
  if (data[0] % 2 != 0) {
    damaged_model(data + kChoices, size - kChoices);
  } else {
    decode(model(), {data + kChoices, size - kChoices}, chosen_shape(data));
  }
  return 0;
}

#ifndef TILEVAULT_NO_MAIN
namespace {

std::vector<uint8_t> seed_input(Random& random) {
  uint8_t choices[kChoices];
  for (uint8_t& c : choices) c = static_cast<uint8_t>(random.next());
  if (random.below(8) != 0) choices[0] &= 0xFE;
  if (random.below(2) != 0) choices[2] %= 20, choices[3] %= 20;
  std::vector<uint8_t> input(choices, choices + kChoices);
  if (choices[0] % 2 != 0) {
    input.resize(kChoices + 3 * (1 + random.below(3)));
    for (size_t i = kChoices; i < input.size(); ++i) input[i] = static_cast<uint8_t>(random.next());
    return input;
  }
  const std::vector<uint8_t> tile = encoded(model(), chosen_shape(choices), random.below(kTextures), random.below(kSteps), 0.1 + random.below(10), random);
  input.insert(input.end(), tile.begin(), tile.end());
  return input;
}

// Most damage near the front, where the header and the states are.
void mutate(std::vector<uint8_t>& input, Random& random) {
  for (unsigned n = 1 + random.below(4); n != 0; --n) {
    const auto size = static_cast<uint32_t>(input.size());
    if (size <= kChoices + 1) return;
    const uint32_t span = random.below(2) != 0 ? size : std::min<uint32_t>(size, 40);
    const uint32_t at = random.below(span);
    switch (random.below(6)) {
      case 0: input[at] = static_cast<uint8_t>(input[at] ^ 1u << random.below(8)); break;
      case 1: input[at] = static_cast<uint8_t>(random.next()); break;
      case 2: input[at] = random.below(2) != 0 ? 0xFF : 0; break;
      case 3: input.resize(std::max<size_t>(at, kChoices)); break;
      case 4: input.insert(input.begin() + at, 2, static_cast<uint8_t>(random.next())); break;
      default: input.resize(input.size() + 2 * random.below(40), static_cast<uint8_t>(random.next()));
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
    if (i % 16 == 0) seed = seed_input(random);
    std::vector<uint8_t> input = seed;
    mutate(input, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("lossy_fuzz: %lu executions\n", executions);
  return 0;
}
#endif
