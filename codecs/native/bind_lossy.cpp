// Python bindings of the learned codec: samples in, bytes out, the GIL released in between.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "lossy_estimate.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using tilevault::bindings::ByteArray;

namespace {

using ConstSamples = nb::ndarray<const int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Samples = nb::ndarray<int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class Array>
tilevault::lossy::TileShape lossy_shape(const Array& a) {
  if (a.size() == 0 || a.shape(0) > tilevault::lossy::kMostPlanes || a.size() > 0x7FFFFFFFu) throw nb::value_error("planes of the wrong shape");
  return {a.shape(0), a.shape(1), a.shape(2)};
}

template <class A, class B>
void same_shape(const A& a, const B& b) {
  for (size_t i = 0; i < 3; ++i)
    if (a.shape(i) != b.shape(i)) throw nb::value_error("arrays of different shapes");
}

void load_model(tilevault::lossy::Model* self, nb::bytes blob, const std::string& path) {
  new (self) tilevault::lossy::Model({static_cast<const uint8_t*>(blob.data()), blob.size()}, tilevault::bindings::kernels_of(path));
}

void check_samples(ConstSamples samples, int32_t least, int32_t most) {
  constexpr int32_t kMost = tilevault::lossy::kMostLow;
  const auto [low, high] = std::minmax_element(samples.data(), samples.data() + samples.size());
  if (*low < least || *high > most || int64_t{*high} - *low >= 1 << 16 || *low < -kMost || *high > kMost)
    throw nb::value_error("a sample is out of range");
}

void check_step(unsigned step, double slope) {
  if (step >= tilevault::lossy::kSteps || !(slope > 0)) throw nb::value_error("the step or the slope is out of range");
}

void make_estimate(tilevault::lossy::Estimate* self, const tilevault::lossy::Model& model, ConstSamples samples) {
  const tilevault::lossy::TileShape shape = lossy_shape(samples);
  check_samples(samples, INT32_MIN, INT32_MAX);
  nb::gil_scoped_release release;
  new (self) tilevault::lossy::Estimate(model, samples.data(), shape);
}

double estimated_squares(const tilevault::lossy::Estimate& estimate, unsigned step, double slope) {
  check_step(step, slope);
  nb::gil_scoped_release release;
  return estimate.squares(step, slope);
}

// samples: within 2^16 of each other, and at most 2^24 in magnitude. plain and restored take what decoders will have without restoration and with it.
nb::bytes encode_lossy(const tilevault::lossy::Model& model, ConstSamples samples, int32_t least, int32_t most, unsigned step, double slope,
                       bool restore, Samples plain, Samples restored) {
  const tilevault::lossy::TileShape shape = lossy_shape(samples);
  same_shape(samples, plain);
  same_shape(samples, restored);
  check_step(step, slope);
  check_samples(samples, least, most);
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release release;
    tilevault::lossy::TileEncoder(model, step, slope, restore)
        .encode(samples.data(), shape, least, most, plain.data(), restored.data(), out);
  }
  return nb::bytes(reinterpret_cast<const char*>(out.data()), out.size());
}

void decode_lossy(const tilevault::lossy::Model& model, ByteArray data, int32_t least, int32_t most, Samples plain, std::optional<Samples> restored) {
  const tilevault::lossy::TileShape shape = lossy_shape(plain);
  if (restored) same_shape(plain, *restored);
  if (least > most) throw nb::value_error("the range is empty");
  nb::gil_scoped_release release;
  tilevault::lossy::decode_tile(model, {data.data(), data.size()}, shape, least, most, plain.data(), restored ? restored->data() : nullptr);
}

}  // namespace

void tilevault::bindings::bind_lossy(nb::module_& m) {
  nb::class_<tilevault::lossy::Model>(m, "Model").def("__init__", &load_model, "blob"_a, "path"_a = "");
  nb::class_<tilevault::lossy::Estimate>(m, "LossyEstimate")
      .def("__init__", &make_estimate, "model"_a, "samples"_a, nb::keep_alive<1, 2>())
      .def("squares", &estimated_squares, "step"_a, "slope"_a);
  m.def("encode_lossy", &encode_lossy, "model"_a, "samples"_a, "least"_a, "most"_a, "step"_a, "slope"_a, "restore"_a, "plain"_a, "restored"_a);
  m.def("decode_lossy", &decode_lossy, "model"_a, "data"_a, "least"_a, "most"_a, "plain"_a, "restored"_a.none());
}
