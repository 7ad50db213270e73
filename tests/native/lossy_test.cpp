// The learned codec without Python: what the encoder says that decoders will have they have, and damage is an
// exception or samples in bounds, never anything else. Meant for the sanitizers.
#include "check.hpp"
#include "lossy_samples.hpp"

using tilevault::Bytes;
using tilevault::Corrupt;
using namespace tilevault::lossy;

namespace {

struct Decoded {
  std::vector<int32_t> plain, restored;
};

// Samples, or nothing if the bytes were refused. The input is copied to its exact size, so that the sanitizer
// sees a read one byte too far.
bool decodes(const Model& model, const uint8_t* data, size_t size, TileShape shape, int32_t least, int32_t most, Decoded& out) {
  const std::vector<uint8_t> exact(data, data + size);
  out.plain.assign(shape.samples(), least - 1);
  out.restored.assign(shape.samples(), least - 1);
  try {
    decode_tile(model, {exact.data(), exact.size()}, shape, least, most, out.plain.data(), out.restored.data());
  } catch (const Corrupt&) {
    return false;
  }
  const auto in_bounds = [&](int32_t v) { return v >= least && v <= most; };
  CHECK(std::all_of(out.plain.begin(), out.plain.end(), in_bounds));
  CHECK(std::all_of(out.restored.begin(), out.restored.end(), in_bounds));
  return true;
}

void round_trips(const Model& model, Random& random) {
  const TileShape shapes[] = {{1, 1, 1}, {1, 1, 37}, {1, 37, 1}, {2, 2, 2}, {1, 33, 65}, {3, 17, 20}, {4, 9, 31}, {1, 130, 96}, {2, 70, 129}};
  for (const TileShape& shape : shapes)
    for (unsigned texture = 0; texture < kTextures; ++texture)
      for (const unsigned bits : {8u, 16u})
        for (const unsigned code : {0u, 500u, 900u, kSteps - 1}) {
          const int32_t least = texture % 3 == 0 ? -(1 << (bits - 1)) : texture % 3 == 1 ? 0 : (1 << 24) - (1 << bits) + 1;
          const int32_t most = least + (1 << bits) - 1;
          const auto samples = make_planes(shape, texture, bits, least, texture % 2 == 0, random);
          Decoded made{std::vector<int32_t>(shape.samples()), std::vector<int32_t>(shape.samples())}, out;
          std::vector<uint8_t> data;
          TileEncoder(model, code, 0.5 + texture, texture % 4 != 1).encode(samples.data(), shape, least, most, made.plain.data(), made.restored.data(), data);
          CHECK(decodes(model, data.data(), data.size(), shape, least, most, out));
          CHECK(out.plain == made.plain);
          CHECK(out.restored == made.restored);
          std::vector<int32_t> plain(shape.samples());
          decode_tile(model, {data.data(), data.size()}, shape, least, most, plain.data(), nullptr);
          CHECK(plain == made.plain);
        }
}

void threats(const Model& model, Random& random) {
  const TileShape shape{2, 13, 18};
  for (unsigned texture = 0; texture < kTextures; ++texture)
    for (const unsigned code : {300u, 800u}) {
      const auto samples = make_planes(shape, texture, 9, -100, true, random);
      Decoded made{std::vector<int32_t>(shape.samples()), std::vector<int32_t>(shape.samples())}, out;
      std::vector<uint8_t> data;
      TileEncoder(model, code, 3, true).encode(samples.data(), shape, -100, 411, made.plain.data(), made.restored.data(), data);
      for (size_t n = 0; n < data.size(); ++n) CHECK(!decodes(model, data.data(), n, shape, -100, 411, out));
      for (size_t bit = 0; bit < 8 * data.size() && bit < 4000; ++bit) {
        data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
        decodes(model, data.data(), data.size(), shape, -100, 411, out);
        data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
      }
      data.push_back(0);
      CHECK(!decodes(model, data.data(), data.size(), shape, -100, 411, out));
      data.push_back(0);
      CHECK(!decodes(model, data.data(), data.size(), shape, -100, 411, out));
    }
}

// Damaged models are refused or work on as models.
void models(const std::vector<uint8_t>& blob, Random& random) {
  const TileShape shape{1, 40, 36};
  std::vector<int32_t> samples = make_planes(shape, 7, 8, 0, false, random);
  std::vector<uint8_t> data;
  Decoded made{std::vector<int32_t>(shape.samples()), std::vector<int32_t>(shape.samples())}, out;
  TileEncoder(Model({blob.data(), blob.size()}), 600, 3, true).encode(samples.data(), shape, 0, 255, made.plain.data(), made.restored.data(), data);
  for (size_t n = 0; n < blob.size(); n += 1 + random.below(97)) {
    const std::vector<uint8_t> exact(blob.begin(), blob.begin() + static_cast<ptrdiff_t>(n));
    try {
      Model({exact.data(), exact.size()});
      CHECK(false);
    } catch (const Corrupt&) {
    }
  }
  unsigned accepted = 0;
  for (unsigned i = 0; i < 3000; ++i) {
    std::vector<uint8_t> damaged = blob;
    const size_t tables = 8 + 2 * kLogs + 2 * 128 + 2 * 16 + 256 + 64 + 2 * 512 * kTokens;
    const size_t at = random.below(4) == 0 ? random.below(static_cast<uint32_t>(blob.size()))
                                           : tables + random.below(static_cast<uint32_t>(blob.size() - tables));
    damaged[at] = static_cast<uint8_t>(random.next());
    try {
      const Model model({damaged.data(), damaged.size()});
      ++accepted;
      decodes(model, data.data(), data.size(), shape, 0, 255, out);
      TileEncoder(model, 600, 3, true).encode(samples.data(), shape, 0, 255, made.plain.data(), made.restored.data(), damaged);
      CHECK(decodes(model, damaged.data(), damaged.size(), shape, 0, 255, out));
      CHECK(out.plain == made.plain);
      CHECK(out.restored == made.restored);
    } catch (const Corrupt&) {
    }
  }
  CHECK(accepted > 500);
}

}  // namespace

int main() {
  Random random{88172645463325252ull};
  const std::vector<uint8_t> blob = make_model(random);
  const Model model({blob.data(), blob.size()});
  round_trips(model, random);
  threats(model, random);
  models(blob, random);
  std::puts("lossy_test: ok");
  return 0;
}
