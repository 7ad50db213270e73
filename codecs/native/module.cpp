// Python bindings of the native codec core.
#include <nanobind/nanobind.h>

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of tilevault.codecs.";
  m.def("version", []() { return 1; });
}
