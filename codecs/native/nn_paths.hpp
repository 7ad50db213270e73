// The paths that this machine has: nn_kernels.hpp compiled for each instruction set, the fastest last.
#pragma once

#include <cstring>

#include "nn_layers.hpp"
#ifdef TILEVAULT_DISPATCH
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define TILEVAULT_NN_PATH portable
#define TILEVAULT_NN_LANES 8
#include "nn_kernels.hpp"
#undef TILEVAULT_NN_PATH
#undef TILEVAULT_NN_LANES

#ifdef TILEVAULT_DISPATCH

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt")
#define TILEVAULT_NN_PATH avx2
#define TILEVAULT_NN_LANES 8
#define TILEVAULT_NN_AVX2
#include "nn_kernels.hpp"
#undef TILEVAULT_NN_PATH
#undef TILEVAULT_NN_LANES
#undef TILEVAULT_NN_AVX2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512vl,avx512dq")
#define TILEVAULT_NN_PATH avx512
#define TILEVAULT_NN_LANES 16
#include "nn_kernels.hpp"
#undef TILEVAULT_NN_PATH
#undef TILEVAULT_NN_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#define TILEVAULT_NN_PATH vnni
#define TILEVAULT_NN_LANES 16
#define TILEVAULT_NN_VNNI
#include "nn_kernels.hpp"
#undef TILEVAULT_NN_PATH
#undef TILEVAULT_NN_LANES
#undef TILEVAULT_NN_VNNI
#pragma GCC pop_options

#endif

namespace tilevault::nn {

// The paths of this machine, the slowest first.
inline const std::vector<Kernels>& paths() {
  static const std::vector<Kernels> all = [] {
    std::vector<Kernels> found{{"portable", portable::kLanes, portable::kGroup, portable::channel, portable::dense, portable::depthwise, portable::add}};
#ifdef TILEVAULT_DISPATCH
    if (has_avx2()) found.push_back({"avx2", avx2::kLanes, avx2::kGroup, avx2::channel, avx2::dense, avx2::depthwise, avx2::add});
    if (has_avx512()) found.push_back({"avx512", avx512::kLanes, avx512::kGroup, avx512::channel, avx512::dense, avx512::depthwise, avx512::add});
    if (has_avx512() && __builtin_cpu_supports("avx512vnni"))
      found.push_back({"vnni", vnni::kLanes, vnni::kGroup, vnni::channel, vnni::dense, vnni::depthwise, vnni::add});
#endif
    return found;
  }();
  return all;
}

}  // namespace tilevault::nn
