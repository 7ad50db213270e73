// The sums of the structural similarity without Python: every extent from the window's on, planes of exactly
// their size, so that the sanitizers see a read too far. Identical planes give 1 at each position.
#include "check.hpp"
#include "ssim.hpp"

int main() {
  uint32_t state = 1;
  const auto random = [&state] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (size_t rows = tilevault::kSsimTaps; rows < 30; ++rows)
    for (size_t columns = tilevault::kSsimTaps; columns < 45; ++columns) {
      std::vector<double> x(rows * columns), y(x.size());
      std::vector<uint8_t> valid(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] = random() % 4096;
        y[i] = x[i] + random() % 64;
        valid[i] = random() % 3 != 0;
      }
      const uint64_t positions = (rows - 10) * (columns - 10);
      for (const bool masked : {false, true}) {
        const uint8_t* const mask = masked ? valid.data() : nullptr;
        const auto same = tilevault::ssim_sums({x.data(), x.data(), mask, rows, columns, 2048, 1681, 15129});
        const auto other = tilevault::ssim_sums({x.data(), y.data(), mask, rows, columns, 2048, 1681, 15129});
        const double count = static_cast<double>(same.positions);
        CHECK(masked ? same.positions <= positions : same.positions == positions);
        CHECK(same.similarity == count && same.structure == count);
        CHECK(other.positions == same.positions);
        CHECK(count == 0 || (other.similarity < count && other.structure < count));
      }
    }
  return 0;
}
