// What the files of Python bindings share: each binds one part of the core, so that they are compiled apart.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

namespace tilevault::nn {
struct Kernels;
}

namespace tilevault::bindings {

using ByteArray = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// path: one of network_paths(), "" for the fastest.
const nn::Kernels& kernels_of(const std::string& path);
void bind_networks(nanobind::module_& m);
void bind_lossy(nanobind::module_& m);

}  // namespace tilevault::bindings
