// Python bindings of the native codec core: bytes in, bytes out, the GIL released in between.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "ssim.hpp"
#include "tile.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using tilevault::bindings::ByteArray;

namespace {

using Plane = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MaskPlane = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
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

std::tuple<double, double, uint64_t> ssim_sums(Plane x, Plane y, std::optional<MaskPlane> valid, double shift, double c1, double c2) {
  const size_t rows = x.shape(0), columns = x.shape(1);
  if (y.shape(0) != rows || y.shape(1) != columns || (valid && (valid->shape(0) != rows || valid->shape(1) != columns)))
    throw nb::value_error("planes differ in shape");
  if (rows < tilevault::kSsimTaps || columns < tilevault::kSsimTaps) throw nb::value_error("a plane is smaller than the window");
  nb::gil_scoped_release release;
  const tilevault::SsimSums sums =
      tilevault::ssim_sums({x.data(), y.data(), valid ? valid->data() : nullptr, rows, columns, shift, c1, c2});
  return {sums.similarity, sums.structure, sums.positions};
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of tilevault.codecs.";
  nb::exception<tilevault::Corrupt>(m, "Corrupt", PyExc_ValueError);
  m.def("encode", &encode, "samples"_a, "type"_a, "extents"_a, "levels"_a, "pack"_a, "size"_a,
        "huffman"_a);
  m.def("decode", &decode, "data"_a, "type"_a, "extents"_a, "reduce"_a, "levels"_a, "out"_a);
  m.def("segment_ends", &segment_ends, "data"_a, "type"_a, "levels"_a);
  m.def("ssim_sums", &ssim_sums, "x"_a, "y"_a, "valid"_a.none(), "shift"_a, "c1"_a, "c2"_a);
  tilevault::bindings::bind_networks(m);
  tilevault::bindings::bind_lossy(m);
}
