// Python bindings of integer networks.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "nn.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

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

void load_network(tilevault::nn::Network* self, nb::bytes blob, int64_t limit, const std::string& path) {
  new (self) tilevault::nn::Network({static_cast<const uint8_t*>(blob.data()), blob.size()}, limit, tilevault::bindings::kernels_of(path));
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

}  // namespace

const tilevault::nn::Kernels& tilevault::bindings::kernels_of(const std::string& path) {
  for (const nn::Kernels& k : nn::paths())
    if (path == k.name || (path.empty() && &k == &nn::paths().back())) return k;
  throw nb::value_error("this machine has no such path");
}

void tilevault::bindings::bind_networks(nb::module_& m) {
  m.def("network_paths", &network_paths);
  nb::class_<tilevault::nn::Network>(m, "Network")
      .def("__init__", &load_network, "blob"_a, "limit"_a = tilevault::nn::kSumLimit, "path"_a = "")
      .def_prop_ro("path", &tilevault::nn::Network::path)
      .def_prop_ro("products", &tilevault::nn::Network::products)
      .def("run", &run_network, "inputs"_a, "outputs"_a, "rows"_a, "columns"_a);
}
