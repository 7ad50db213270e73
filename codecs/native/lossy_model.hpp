// The model of the learned codec: networks and integer tables, read from one blob that its digest names.
// docs/format.md, section "Models", gives its bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "bits.hpp"
#include "nn.hpp"
#include "samples.hpp"

namespace tilevault::lossy {

constexpr unsigned kLevels = 5;        // decompositions
constexpr unsigned kBands = 3;         // HL, LH, HH
constexpr unsigned kTokens = 32;       // of a row: -15 .. 15, then the escape
constexpr unsigned kEscape = 31;
constexpr int kMostToken = 15;
constexpr unsigned kScales = 64, kFractions = 8;
constexpr unsigned kScaleBits = 15;    // what the frequencies of a row sum to
constexpr unsigned kSteps = 11 * 128;  // codes of the quantiser's step
constexpr size_t kLogs = 4096;
constexpr unsigned kFeatures = 6, kParameters = 6;

// The chances of the tokens of one scale and fraction of the mean.
struct Row {
  std::array<uint16_t, kTokens + 1> start;  // the sum of the frequencies before each; the last is all
  uint8_t raw_bits;                         // that follow a token
};

class Model {
 public:
  // Checks all of it; throws Corrupt. kernels: of its networks.
  explicit Model(Bytes blob, const nn::Kernels& kernels = nn::paths().back()) {
    Reader in{blob};
    const uint8_t* head = in.take(8);
    if (std::memcmp(head, "TVLM\1\0\0\0", 8) != 0) throw Corrupt("not a model of a version that is known");
    for (int16_t& v : log) {
      v = static_cast<int16_t>(in.u16());
      if (v < 0 || v > 4096) throw Corrupt("a logarithm of the model is out of range");
    }
    if (log[0] != 0) throw Corrupt("the logarithm of one is not zero");  // as of what is not coded
    for (uint16_t& v : mantissa) {
      v = in.u16();
      if (v < 512 || v > 1024) throw Corrupt("a step of the model is out of range");
    }
    for (uint16_t& v : inverse_gain) {
      v = in.u16();
      if (v < 1024) throw Corrupt("a gain of the model is out of range");
    }
    for (uint8_t& v : low_scale) {
      v = in.u8();
      if (v >= kScales) throw Corrupt("a scale of the model is out of range");
    }
    for (size_t i = 0; i < magnitude.size(); ++i) magnitude[i] = log[std::min(16 * i, kLogs - 1)];
    rows.resize(kScales * kFractions);
    for (size_t s = 0; s < kScales; ++s) {
      const uint8_t bits = in.u8();
      if (bits > kScaleBits - 3) throw Corrupt("the model has too many raw bits");
      for (size_t f = 0; f < kFractions; ++f) rows[s * kFractions + f].raw_bits = bits;
    }
    costs.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) read_row(in, rows[i], costs[i]);
    for (std::unique_ptr<nn::Network>& network : networks) {
      const uint32_t size = in.u32();
      network = std::make_unique<nn::Network>(Bytes{in.take(size), size}, nn::kMostSumLimit, kernels);
    }
    if (in.rest.size != 0) throw Corrupt("bytes follow the end of the model");
    for (unsigned i = 0; i < 2; ++i) {
      check(first(i), 1, {kFeatures}, {hidden(i), kParameters});
      check(second(i), 1, {hidden(i), kFeatures}, {kParameters});
      // Where the first network did not run, the hidden state holds anything.
      if (second(i).input_reach(0) != 0) throw Corrupt("a second network of the model looks beyond a position's hidden state");
    }
    check(restoration(), 4, {1}, {1});
  }

  // 0: the finest decomposition; 1: the others.
  const nn::Network& first(unsigned i) const { return *networks[2 * i]; }
  const nn::Network& second(unsigned i) const { return *networks[2 * i + 1]; }
  const nn::Network& restoration() const { return *networks[4]; }
  size_t hidden(unsigned i) const { return first(i).outputs() == 2 ? first(i).output_channels(0) : 0; }

  // The step of a code, times 64.
  int64_t step(unsigned code) const { return int64_t{mantissa[code & 127]} << (code >> 7); }
  // Of a band: level 0 is the finest; kLevels and band 0 for LL. Times 64, at least 1.
  int64_t band_step(int64_t step, unsigned level, unsigned band) const {
    return (step * inverse_gain[level * kBands + band] + (1 << 13)) >> 14;
  }

  std::array<int16_t, kLogs> log;           // of 1 + i / 16, to base 2, times 128
  std::array<uint16_t, 128> mantissa;
  std::array<uint16_t, kLevels * kBands + 1> inverse_gain;  // 2^14 over the norm of a band's synthesis
  std::array<uint8_t, 256> low_scale;       // of LL, by the differences around
  std::array<int16_t, kLogs / 16 + 1> magnitude;  // the same logarithms of whole numbers; the last is for all above
  std::vector<Row> rows;                    // of a scale kFractions
  std::vector<std::array<float, kTokens>> costs;  // of the rows' tokens, in bits, for encoders only

 private:
  struct Reader {
    Bytes rest;
    const uint8_t* take(size_t n) {
      if (rest.size < n) throw Corrupt("the model ends before its content");
      const uint8_t* p = rest.data;
      rest.data += n;
      rest.size -= n;
      return p;
    }
    uint8_t u8() { return *take(1); }
    uint16_t u16() { return load_le16(take(2)); }
    uint32_t u32() { return load_le32(take(4)); }
  };

  static void read_row(Reader& in, Row& row, std::array<float, kTokens>& cost) {
    uint32_t sum = 0;
    for (unsigned t = 0; t < kTokens; ++t) {
      row.start[t] = static_cast<uint16_t>(sum);
      const uint32_t n = in.u16();
      cost[t] = n == 0 ? 1e3f : kScaleBits - std::log2(static_cast<float>(n));
      sum += n;
      if (sum > 1u << kScaleBits) throw Corrupt("frequencies of the model sum to too much");
    }
    if (sum != 1u << kScaleBits || row.start[kEscape] == sum) throw Corrupt("frequencies of the model do not sum to one");
    row.start[kTokens] = static_cast<uint16_t>(sum);
  }

  static void check(const nn::Network& n, int factor, std::initializer_list<size_t> in, std::initializer_list<size_t> out) {
    bool fits = n.inputs() == in.size() && n.outputs() == out.size();
    for (size_t i = 0; fits && i < in.size(); ++i) fits = n.input_channels(i) == in.begin()[i] && n.input_factor(i) == factor;
    for (size_t i = 0; fits && i < out.size(); ++i) fits = n.output_channels(i) == out.begin()[i] && n.output_factor(i) == factor;
    if (!fits) throw Corrupt("a network of the model has other inputs or outputs");
  }

  std::array<std::unique_ptr<nn::Network>, 5> networks;
};

}  // namespace tilevault::lossy
