// LLVMFuzzerTestOneInput for the tile decoder, for libFuzzer or AFL++; without them a main() that mutates
// encoded seeds. Either way `--path=NAME` bends each frame to one path of the decoder, so that executions
// are counted by path and none is lost to a frame of another kind:
//
//   tile_fuzz [--path=NAME] [--runs=N] [--seed=N] [--time=SECONDS]
//   tile_fuzz [--path=NAME] FILE...           run single inputs again
//   tile_fuzz [--path=NAME] --write=FOLDER    seeds for libFuzzer or AFL++
//
// Input: 6 bytes of choices (type, reduce, rank, three extents), then the frame.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

#include "samples.hpp"

using namespace tilevault;

namespace {
constexpr unsigned kLevels = 5;
constexpr size_t kChoices = 6;

// A path of the decoder: a transform, for the transforms with flags also whether values are packed, and how
// its seeds are made.
struct Path {
  const char* name;
  Transform transform;
  bool packed;
  Prefer prefer;
  Coder coder;
};
constexpr Path kPaths[] = {{"raw", kRaw, false, Prefer::resolution, Coder::ans},
                           {"constant", kConstant, false, Prefer::resolution, Coder::ans},
                           {"wavelet", kWavelet53, false, Prefer::resolution, Coder::ans},
                           {"wavelet-packed", kWavelet53, true, Prefer::resolution, Coder::ans},
                           {"huffman", kWavelet53, false, Prefer::resolution, Coder::huffman},
                           {"predictor", kPredictor, false, Prefer::size, Coder::ans},
                           {"predictor-packed", kPredictor, true, Prefer::size, Coder::ans},
                           {"planes", kPlanes, false, Prefer::resolution, Coder::ans},
                           {"clusters", kClusters, false, Prefer::resolution, Coder::ans}};
const Path* only = nullptr;  // all of them

// The wavelet's paths have transposed tiles, too.
bool is_of(uint8_t transform, const Path& path) {
  return transform == path.transform || (transform == kWavelet53Transposed && path.transform == kWavelet53);
}

bool take_path(const char* argument) {
  if (std::strncmp(argument, "--path=", 7) != 0) return false;
  for (const Path& path : kPaths)
    if (std::strcmp(argument + 7, path.name) == 0) only = &path;
  if (only != nullptr) return true;
  std::fprintf(stderr, "tile_fuzz: no such path; there are");
  for (const Path& path : kPaths) std::fprintf(stderr, " %s", path.name);
  std::fprintf(stderr, "\n");
  std::exit(2);
}

// Mostly small, so that an execution is short; some are wider than a vector of samples, and some as tall as
// two stripes of the predictor.
Shape chosen_shape(const uint8_t* c) {
  Shape shape;
  shape.rank = 2 + c[2] % 4;
  shape.extent.fill(1);
  size_t &height = shape.extent[shape.rank - 2], &width = shape.extent[shape.rank - 1];
  height = c[4] < 224 ? 1 + c[4] % 13 : 126 + c[4] % 8;
  width = c[5] < 160 ? 1 + c[5] % 10 : 1 + c[5] % 70;
  if (height > 100) width = std::min<size_t>(width, 5);
  if (shape.rank > 2) shape.extent[shape.rank - 3] = 1 + c[3] % 5;
  return shape;
}

// What the path says about a frame's first bytes; the header is otherwise the fuzzer's.
void bend(uint8_t* frame, size_t size, Type type, const Shape& shape) {
  if (only == nullptr || size < 2) return;
  if (!is_of(frame[0], *only)) frame[0] = only->transform;
  frame[1] = static_cast<uint8_t>(shape.rank | static_cast<unsigned>(type) << 3);
  if (only->transform != kWavelet53 && only->transform != kPredictor) return;
  size_t at = 2;
  for (unsigned i = 0; i < shape.rank; ++i) {
    while (at < size && (frame[at] & 0x80) != 0) ++at;
    ++at;
  }
  if (at < size) frame[at] = static_cast<uint8_t>((frame[at] & ~16u) | unsigned{only->packed} << 4);
}
}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {  // libFuzzer leaves what begins with -- to us
  for (int i = 1; i < *argc; ++i) take_path((*argv)[i]);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kChoices) return 0;
  const Type type = static_cast<Type>(data[0] % kTypes);
  const unsigned reduce = data[1] % (kLevels + 1);
  const Shape shape = chosen_shape(data);
  std::vector<uint8_t> out(shape.samples() * size_of(type));
  std::vector<uint8_t> bent(data + kChoices, data + size);  // of exactly this size, so that a byte too far is seen
  bend(bent.data(), bent.size(), type, shape);
  const Bytes frame{bent.data(), bent.size()};
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

void encode(const std::vector<uint8_t>& tile, Type type, const Shape& shape, bool pack, Prefer prefer, Coder coder,
            std::vector<uint8_t>& frame) {
  TileEncoder::encode(tile.data(), type, shape, kLevels, pack, prefer, coder, frame);
}

// Frames that an encoder writes for large tiles only, put together for a small one: packed words in a comb of
// values, and clusters.
void listed_frame(const Path& path, Type type, const Shape& shape, Random& random, std::vector<uint8_t>& frame) {
  const size_t n = shape.samples();
  const uint32_t first = type == Type::i8 || type == Type::i16 ? 32700 : 0;
  std::vector<uint32_t> keys;
  std::vector<uint8_t> nested;
  frame.clear();
  if (path.transform == kClusters) {
    const uint32_t places = std::min<uint32_t>(3, static_cast<uint32_t>(n)), count = static_cast<uint32_t>(n) / places;
    for (uint32_t i = 0; i < std::min(count, 8u) * places; ++i) keys.push_back(first + i / places * 9 + i % places);
    std::vector<uint8_t> numbers(2 * n), moves(n);
    for (size_t i = 0; i < n; ++i) numbers[2 * i] = static_cast<uint8_t>(random.below(static_cast<uint32_t>(keys.size()) / places));
    frame::put_prefix(frame, kClusters, type, shape);
    write_palette(keys, frame);
    frame::put_varint(frame, 5);
    encode(numbers, Type::u16, shape, false, random.below(2) != 0 ? Prefer::size : Prefer::resolution, path.coder, nested);
    frame::put_varint(frame, nested.size());
    frame.insert(frame.end(), nested.begin(), nested.end());
    encode(moves, Type::i8, shape, false, path.prefer, path.coder, nested);
    frame.insert(frame.end(), nested.begin(), nested.end());
    return;
  }
  // A frame of ranks, whose header then gets a list of values; 8-bit types have no base to take out.
  const Type narrow = size_of(type) == 1 ? type : Type::u16;
  std::vector<uint8_t> ranks(n * size_of(narrow));
  const uint32_t count = static_cast<uint32_t>(std::min<size_t>(n, 20));
  for (uint32_t i = 0; i < count; ++i) keys.push_back(first + 3 * i + i / 5);
  for (size_t i = 0; i < n; ++i) ranks[i * size_of(narrow)] = static_cast<uint8_t>(random.below(count));
  if (path.transform == kWavelet53 && random.below(3) == 0) nested = transposed_frame(ranks, narrow, shape, kLevels, path.coder);
  else encode(ranks, narrow, shape, false, path.prefer, path.coder, nested);
  if (!is_of(nested[0], path)) return;
  size_t at = 2;
  for (unsigned i = 0; i < shape.rank; ++i) at += shape.extent[i] < 128 ? 1 : 2;
  frame::put_prefix(frame, static_cast<Transform>(nested[0]), type, shape);
  frame.push_back(static_cast<uint8_t>(nested[at] | 16));
  write_palette(keys, frame);
  frame.insert(frame.end(), nested.begin() + static_cast<std::ptrdiff_t>(at) + 1, nested.end());
}

std::vector<uint8_t> seed_input(Random& random) {
  const Path& path = only != nullptr ? *only : kPaths[random.below(sizeof kPaths / sizeof kPaths[0])];
  std::vector<uint8_t> input, frame;
  for (unsigned tries = 0; tries < 200; ++tries) {
    uint8_t choices[kChoices];
    for (uint8_t& c : choices) c = static_cast<uint8_t>(random.next());
    const Type type = static_cast<Type>(choices[0] % kTypes);
    const Shape shape = chosen_shape(choices);
    if (path.transform == kClusters || (path.packed && random.below(8) != 0)) {
      listed_frame(path, type, shape, random, frame);
    } else if (path.transform == kRaw) {
      const auto tile = make_tile(type, shape, 0, random);
      frame.clear();
      frame::put_prefix(frame, kRaw, type, shape);
      frame.insert(frame.end(), tile.begin(), tile.end());
    } else if (path.transform == kWavelet53 && !path.packed && random.below(3) == 0) {
      frame = transposed_frame(make_tile(type, shape, random.below(kTextures), random), type, shape, kLevels, path.coder);
    } else {
      const unsigned texture = path.transform == kConstant ? 1 : random.below(kTextures);
      const Prefer prefer = path.transform == kPlanes && random.below(2) != 0 ? Prefer::size : path.prefer;
      encode(make_tile(type, shape, texture, random), type, shape, path.packed || path.transform == kPlanes, prefer, path.coder, frame);
    }
    input.assign(choices, choices + kChoices);
    input.insert(input.end(), frame.begin(), frame.end());
    if (!frame.empty() && is_of(frame[0], path)) break;
  }
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

int write_seeds(const std::string& folder, Random& random) {
  for (unsigned i = 0; i < 200; ++i) {
    const std::vector<uint8_t> input = seed_input(random);
    std::FILE* file = std::fopen((folder + "/seed-" + std::to_string(i)).c_str(), "wb");
    if (file == nullptr) return 1;
    const size_t written = std::fwrite(input.data(), 1, input.size(), file);
    if (std::fclose(file) != 0 || written != input.size()) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  unsigned long runs = 100000, seconds = 0;
  unsigned long long seed = 0;
  std::string folder;
  bool files = false;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (take_path(argv[i])) continue;
    if (a.rfind("--runs=", 0) == 0) runs = std::stoul(a.substr(7));
    else if (a.rfind("--seed=", 0) == 0) seed = std::stoull(a.substr(7));
    else if (a.rfind("--time=", 0) == 0) seconds = std::stoul(a.substr(7));
    else if (a.rfind("--write=", 0) == 0) folder = a.substr(8);
    else if (run_file(argv[i]) != 0) return 1;
    else files = true;
  }
  if (files) return 0;
  Random random{seed != 0 ? seed * 2 + 1 : 0x9E3779B97F4A7C15ull};
  if (!folder.empty()) return write_seeds(folder, random);
  const std::time_t start = std::time(nullptr);
  std::vector<uint8_t> original, input;
  unsigned long done = 0;
  for (; done < runs; ++done) {
    if (done % 64 == 0) {
      if (seconds != 0 && std::time(nullptr) - start >= static_cast<std::time_t>(seconds)) break;
      original = seed_input(random);
    }
    input = original;
    mutate(input, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("tile_fuzz: %s: %lu executions\n", only != nullptr ? only->name : "all paths", done);
  return 0;
}
#endif
