// Python bindings of the native codec core: bytes in, bytes out, the GIL released in between.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <nanobind/stl/optional.h>

#include "nn.hpp"
#include "lossy_tile.hpp"
#include "tile.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using ByteArray = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutArray = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

tilevault::Type type_of(unsigned code) {
  if (code >= tilevault::kTypes) throw nb::value_error("unknown sample type");
  return static_cast<tilevault::Type>(code);
}

// The caller's shape, with its product checked so that nothing behind it can overflow.
tilevault::Shape shape_of(const std::vector<uint64_t>& extents, size_t size) {
  if (extents.size() < tilevault::kMinRank || extents.size() > tilevault::kMaxRank)
    throw nb::value_error("a tile has two to five axes");
  tilevault::Shape shape;
  shape.rank = static_cast<unsigned>(extents.size());
  uint64_t bytes = size;
  for (unsigned i = 0; i < shape.rank; ++i) {
    if (extents[i] == 0 || __builtin_mul_overflow(bytes, extents[i], &bytes) || bytes >= uint64_t{1} << 33)
      throw nb::value_error("a tile has an empty axis or more than 8 GiB");
    shape.extent[i] = static_cast<size_t>(extents[i]);
  }
  if (bytes / size > 0x7FFFFFFFu) throw nb::value_error("a tile has more than 2^31 - 1 samples");
  return shape;
}

nb::bytes encode(ByteArray samples, unsigned type, const std::vector<uint64_t>& extents, unsigned levels, bool pack, bool size,
                 bool huffman) {
  const tilevault::Type t = type_of(type);
  const tilevault::Shape shape = shape_of(extents, tilevault::size_of(t));
  if (samples.size() != shape.samples() * tilevault::size_of(t)) throw nb::value_error("samples and shape differ");
  if (levels > tilevault::kMaxLevels) throw nb::value_error("too many decompositions");
  std::vector<uint8_t> out;
  {
    nb::gil_scoped_release release;
    const tilevault::Workspace::Lease lease(shape.samples());
    tilevault::TileEncoder::encode(samples.data(), t, shape, levels, pack, size ? tilevault::Prefer::size : tilevault::Prefer::resolution,
                                   huffman ? tilevault::Coder::huffman : tilevault::Coder::ans, out);
  }
  return nb::bytes(reinterpret_cast<const char*>(out.data()), out.size());
}

void decode(ByteArray data, unsigned type, const std::vector<uint64_t>& extents, unsigned reduce, unsigned levels, OutArray out) {
  const tilevault::Type t = type_of(type);
  const tilevault::Shape shape = shape_of(extents, tilevault::size_of(t));
  if (levels > tilevault::kMaxLevels || reduce > levels) throw nb::value_error("too many decompositions");
  const size_t rows = ((shape.height() - 1) >> reduce) + 1, columns = ((shape.width() - 1) >> reduce) + 1;
  if (out.size() != shape.planes() * rows * columns * tilevault::size_of(t)) throw nb::value_error("output and shape differ");
  nb::gil_scoped_release release;
  const tilevault::Workspace::Lease lease(shape.samples());
  tilevault::TileDecoder::decode({data.data(), data.size()}, t, shape, reduce, levels, out.data());
}

std::vector<size_t> segment_ends(ByteArray data, unsigned type, unsigned levels) {
  if (levels > tilevault::kMaxLevels) throw nb::value_error("too many decompositions");
  std::vector<size_t> ends;
  tilevault::TileDecoder::segment_ends({data.data(), data.size()}, type_of(type), levels, ends);
  return ends;
}

using Planes = nb::ndarray<int16_t, nb::ndim<3>, nb::device::cpu>;
using ConstPlanes = nb::ndarray<const int16_t, nb::ndim<3>, nb::device::cpu>;

template <class View, class Array>
std::vector<View> views_of(const std::vector<Array>& arrays) {
  std::vector<View> views;
  for (const Array& a : arrays)
    views.push_back({a.data(), a.shape(0), a.shape(1), a.shape(2), static_cast<ptrdiff_t>(a.stride(0)), static_cast<ptrdiff_t>(a.stride(1)),
                     static_cast<ptrdiff_t>(a.stride(2))});
  return views;
}

std::vector<std::string> network_paths() {
  std::vector<std::string> names;
  for (const tilevault::nn::Kernels& k : tilevault::nn::paths()) names.emplace_back(k.name);
  return names;
}

// path: one of network_paths(), "" for the fastest.
void load_network(tilevault::nn::Network* self, nb::bytes blob, int64_t limit, const std::string& path) {
  const tilevault::Bytes bytes{static_cast<const uint8_t*>(blob.data()), blob.size()};
  for (const tilevault::nn::Kernels& k : tilevault::nn::paths())
    if (path == k.name || (path.empty() && &k == &tilevault::nn::paths().back())) {
      new (self) tilevault::nn::Network(bytes, limit, k);
      return;
    }
  throw nb::value_error("this machine has no such path");
}

void run_network(const tilevault::nn::Network& network, const std::vector<ConstPlanes>& inputs, const std::vector<Planes>& outputs, size_t rows,
                 size_t columns) {
  if (inputs.size() != network.inputs() || outputs.size() != network.outputs()) throw nb::value_error("the network has other inputs or outputs");
  const auto in = views_of<tilevault::nn::Input>(inputs);
  const auto out = views_of<tilevault::nn::Output>(outputs);
  nb::gil_scoped_release release;
  thread_local tilevault::nn::Workspace work;
  network.run(in.data(), out.data(), rows, columns, work);
}

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

void load_model(tilevault::lossy::Model* self, nb::bytes blob) {
  new (self) tilevault::lossy::Model({static_cast<const uint8_t*>(blob.data()), blob.size()});
}

// plain and restored take what decoders will have without restoration and with it.
nb::bytes encode_lossy(const tilevault::lossy::Model& model, ConstSamples samples, int32_t least, int32_t most, unsigned step, double slope,
                       bool restore, Samples plain, Samples restored) {
  const tilevault::lossy::TileShape shape = lossy_shape(samples);
  same_shape(samples, plain);
  same_shape(samples, restored);
  if (step >= tilevault::lossy::kSteps || least > most || int64_t{most} - least >= 1 << 16 || !(slope > 0))
    throw nb::value_error("the step, the slope or the range is out of range");
  const tilevault::lossy::Range range = tilevault::lossy::range_of(samples.data(), samples.size());
  if (range.low < least || range.high > most) throw nb::value_error("a sample is out of range");
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

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of tilevault.codecs.";
  nb::exception<tilevault::Corrupt>(m, "Corrupt", PyExc_ValueError);
  m.def("encode", &encode, "samples"_a, "type"_a, "extents"_a, "levels"_a, "pack"_a, "size"_a,
        "huffman"_a);
  m.def("decode", &decode, "data"_a, "type"_a, "extents"_a, "reduce"_a, "levels"_a, "out"_a);
  m.def("segment_ends", &segment_ends, "data"_a, "type"_a, "levels"_a);
  m.def("network_paths", &network_paths);
  nb::class_<tilevault::nn::Network>(m, "Network")
      .def("__init__", &load_network, "blob"_a, "limit"_a = tilevault::nn::kSumLimit, "path"_a = "")
      .def_prop_ro("path", &tilevault::nn::Network::path)
      .def_prop_ro("products", &tilevault::nn::Network::products)
      .def("run", &run_network, "inputs"_a, "outputs"_a, "rows"_a, "columns"_a);
  nb::class_<tilevault::lossy::Model>(m, "Model").def("__init__", &load_model, "blob"_a);
  m.def("encode_lossy", &encode_lossy, "model"_a, "samples"_a, "least"_a, "most"_a, "step"_a, "slope"_a, "restore"_a, "plain"_a, "restored"_a);
  m.def("decode_lossy", &decode_lossy, "model"_a, "data"_a, "least"_a, "most"_a, "plain"_a, "restored"_a.none());
}
