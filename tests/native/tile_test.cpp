// The native core without Python: what is encoded comes back, a prefix serves its resolution, and damage is
// an exception or pixels, never anything else. Meant for the sanitizers.
#include "check.hpp"
#include "samples.hpp"

using namespace tilevault;

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
        for (const unsigned choice : {0u, 1u, 2u, 3u, 4u}) {
          const bool pack = (choice & 1) != 0;
          const Prefer prefer = choice == 2 || choice == 3 ? Prefer::size : Prefer::resolution;
          const Coder coder = choice == 4 ? Coder::huffman : Coder::ans;
          const Type t = static_cast<Type>(type);
          const auto samples = make_tile(t, shape, texture, random);
          std::vector<uint8_t> data, out;
          TileEncoder::encode(samples.data(), t, shape, kLevels, pack, prefer, coder, data);
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

// Any tile comes back from a frame that is coded transposed, and each of its sizes is that of other frames.
void transposed_tiles(Random& random) {
  const Shape shapes[] = {shape_of({1, 1}), shape_of({1, 37}), shape_of({37, 1}), shape_of({2, 2}), shape_of({33, 65}),
                          shape_of({3, 40, 7}), shape_of({130, 96})};
  for (const Shape& shape : shapes)
    for (unsigned type = 0; type < kTypes; ++type)
      for (unsigned texture = 0; texture < kTextures; ++texture) {
        const Type t = static_cast<Type>(type);
        const auto samples = make_tile(t, shape, texture, random);
        std::vector<uint8_t> other, out, expected;
        TileEncoder::encode(samples.data(), t, shape, kLevels, false, Prefer::size, Coder::ans, other);
        auto data = transposed_frame(samples, t, shape, kLevels, texture % 2 != 0 ? Coder::ans : Coder::huffman);
        for (unsigned reduce = 0; reduce <= kLevels; ++reduce) {
          CHECK(decodes(data.data(), data.size(), t, shape, reduce, out));
          CHECK(decodes(other.data(), other.size(), t, shape, reduce, expected));
          CHECK(out == expected);
        }
        CHECK(!decodes(data.data(), data.size() - 1, t, shape, 0, out));
        for (size_t bit = 0; bit < 8 * data.size() && bit < 300; ++bit) {
          data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
          decodes(data.data(), data.size(), t, shape, static_cast<unsigned>(bit % (kLevels + 1)), out);
          data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
        }
      }
}

#ifdef TILEVAULT_DISPATCH
// The kernels of a row for AVX2 give what the plain ones give.
void kernels_agree(Random& random) {
  using namespace predictor;
  if (!has_avx2()) return;
  for (size_t width = 1; width < 70; ++width) {
    const size_t n = width + 2 * kPad;
    std::vector<int32_t> rows(4 * n), classes(width), plain_sums(width), sums(width), plain_classes(width);
    std::vector<int16_t> small(4 * n);
    std::vector<uint16_t> magnitudes(2 * n);
    std::vector<uint32_t> across(n), down(n), energy(width), plain_energy(width);
    const bool wide = width % 3 == 0;
    for (int32_t& v : rows) v = static_cast<int32_t>(wide ? random.next() : random.below(5000));
    for (int16_t& v : small) v = static_cast<int16_t>(random.below(32768));
    for (uint16_t& v : magnitudes) v = static_cast<uint16_t>(random.below(32768));
    Filters f;
    f.thresholds = random.below(4);
    f.threshold = {1 + random.below(500), 1000 + random.below(500), 2000 + random.below(500)};
    f.direction = random.below(2) != 0;
    f.shift = wide ? 1 + random.below(15) : 0;
    for (auto& tap : f.taps)
      for (int32_t& c : tap) c = static_cast<int32_t>(random.below(65535)) - 32767;
    for (int32_t& c : f.constant) c = static_cast<int32_t>(random.next());
    const RowView view{width, &rows[kPad], &rows[n + kPad], &magnitudes[kPad], &magnitudes[n + kPad], &across[kPad], &down[kPad]};
    plain::classify(view, f, plain_classes.data(), plain_energy.data());
    avx2::classify(view, f, classes.data(), energy.data());
    CHECK(classes == plain_classes);
    CHECK(energy == plain_energy);
    std::array<Tap, kTaps> taps;
    for (unsigned k = 0; k < kTaps; ++k) taps[k] = {&rows[k % 4 * n + 1 + k % 7], &rows[kPad], f.taps[k].data()};
    plain::add_taps(taps.data(), kTaps, f.constant.data(), classes.data(), width, f.shift, plain_sums.data());
    avx2::add_taps(taps.data(), kTaps, f.constant.data(), classes.data(), width, f.shift, sums.data());
    CHECK(sums == plain_sums);
    std::array<Pair, kTaps> pairs;
    for (unsigned k = 0; k < kTaps; ++k) pairs[k] = {&small[k % 4 * n + 1 + k % 7], &small[k % 3 * n + k % 5], f.taps[k].data()};
    plain::add_pairs(pairs.data(), kTaps, f.constant.data(), classes.data(), width, plain_sums.data());
    avx2::add_pairs(pairs.data(), kTaps, f.constant.data(), classes.data(), width, sums.data());
    CHECK(sums == plain_sums);
  }
}
#endif

// Every colour transform comes back, whatever the words.
void colours_come_back(Random& random) {
  constexpr size_t kSize = 37;
  for (uint8_t order = 0; order < kOrders.size(); ++order)
    for (unsigned mix = 0; mix < kMixes; ++mix) {
      const Colour colour(8, 4, 2, {order, static_cast<Mix>(mix)});
      std::vector<int32_t> words(8 * kSize);
      for (int32_t& w : words) w = static_cast<int32_t>(random.next());
      std::vector<int32_t> mixed = words;
      colour.apply(mixed.data(), kSize);
      for (size_t i = 0; i < words.size(); ++i) CHECK(i < 6 * kSize || mixed[i] == words[i]);
      CHECK(mixed != words);
      colour.undo(mixed.data(), kSize);
      CHECK(mixed == words);
    }
}

// Sixteen tokens at a time or one by one: the same words, the same tokens.
void rows_of_tokens(Random& random) {
  constexpr unsigned kTables = 3, kRows = 20;
  std::vector<ans::Frequencies> frequencies(kTables);
  std::vector<ans::WideEncodeTable> encode(kTables);
  std::vector<std::vector<uint8_t>> alphabets(kTables);
  for (unsigned t = 0; t < kTables; ++t) {
    std::array<uint32_t, kTokens> counts{};
    for (unsigned i = 0; i < 1 + t * 30; ++i) counts[random.below(kTokens)] += 1 + random.below(t == 1 ? 3 : 90000);
    ans::normalise(counts.data(), frequencies[t]);
    encode[t].build(frequencies[t]);
    for (unsigned i = 0; i < kTokens; ++i)
      if (frequencies[t].of[i] != 0) alphabets[t].push_back(static_cast<uint8_t>(i));
  }
  ans::WideTables decode;
  decode.build(frequencies);
  for (const unsigned lanes : {1u, 8u, 32u})
    for (const size_t width : {1u, 15u, 17u, 31u, 64u, 250u}) {
      const size_t n = kRows * width;
      std::vector<uint8_t> which(n), tokens(n), back(n), words[2];
      for (size_t i = 0; i < n; ++i) {
        which[i] = static_cast<uint8_t>(random.below(kTables));
        tokens[i] = alphabets[which[i]][random.below(static_cast<uint32_t>(alphabets[which[i]].size()))];
      }
      for (const bool wide : {false, true}) {
        std::vector<uint8_t> buffer(2 * n + 4 * ans::kMostLanes + 32);
        ans::RowWriter writer(buffer.data() + buffer.size(), lanes, wide && has_avx512());
        for (size_t y = kRows; y-- > 0;) writer.row(encode.data(), &which[y * width], &tokens[y * width], width);
        const Bytes out = writer.finish();
        words[wide].assign(out.data, out.data + out.size);
      }
      CHECK(words[0] == words[1]);
      for (const bool wide : {false, true}) {
        ans::RowReader reader({words[0].data(), words[0].size()}, lanes, wide && has_avx512());
        std::fill(back.begin(), back.end(), uint8_t{255});
        for (size_t y = 0; y < kRows; ++y) reader.row(decode, &which[y * width], width, &back[y * width]);
        reader.expect_end();
        CHECK(back == tokens);
      }
    }
  std::array<uint8_t, 48> map;
  for (uint8_t& m : map) m = static_cast<uint8_t>(random.next());
  std::vector<uint8_t> row(301);
  for (uint8_t& c : row) c = static_cast<uint8_t>(random.below(kClasses));
  std::vector<uint8_t> plain = row;
  map_row(map.data(), row.data(), row.size());
  map_row_plain(map.data(), plain.data(), plain.size());
  CHECK(row == plain);
}

void threats(Random& random) {
  const Shape shape = shape_of({2, 12, 15});
  for (unsigned type = 0; type < kTypes; ++type)
    for (unsigned choice = 0; choice < 3 * kTextures; ++choice) {
      const Type t = static_cast<Type>(type);
      const auto samples = make_tile(t, shape, choice / 3, random);
      std::vector<uint8_t> data, out;
      TileEncoder::encode(samples.data(), t, shape, kLevels, true, choice % 3 == 1 ? Prefer::size : Prefer::resolution,
                          choice % 3 == 2 ? Coder::huffman : Coder::ans, data);
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
  transposed_tiles(random);
  colours_come_back(random);
  rows_of_tokens(random);
  threats(random);
#ifdef TILEVAULT_DISPATCH
  kernels_agree(random);
#endif
  std::puts("tile_test: ok");
  return 0;
}
