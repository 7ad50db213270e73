// The paths that this machine has: nn_kernels.hpp compiled for each instruction set, the fastest last.
#pragma once

#include <cstring>

#include "nn_layers.hpp"
#ifdef TILEVAULT_DISPATCH
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop
#if defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
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

#if defined(__linux__)
#define TILEVAULT_NN_TILES 1
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")
#include "nn_tiles.hpp"
#pragma GCC pop_options
#endif

#endif

namespace tilevault::nn {

#ifdef TILEVAULT_NN_TILES
// Linux gives a process its tiles only when it asks.
inline bool has_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned kBits = 1u << 24 | 1u << 25;    // AMX-TILE, AMX-INT8
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBits) == kBits && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

// The paths of this machine, the slowest first.
inline const std::vector<Kernels>& paths() {
  static const std::vector<Kernels> all = [] {
    std::vector<Kernels> found{{"portable", portable::kLanes, portable::kGroup, portable::channel, portable::dense, portable::depthwise, portable::add}};
#ifdef TILEVAULT_DISPATCH
    if (has_avx2()) found.push_back({"avx2", avx2::kLanes, avx2::kGroup, avx2::channel, avx2::dense, avx2::depthwise, avx2::add});
    if (has_avx512()) found.push_back({"avx512", avx512::kLanes, avx512::kGroup, avx512::channel, avx512::dense, avx512::depthwise, avx512::add});
    if (has_avx512() && __builtin_cpu_supports("avx512vnni"))
      found.push_back({"vnni", vnni::kLanes, vnni::kGroup, vnni::channel, vnni::dense, vnni::depthwise, vnni::add});
#ifdef TILEVAULT_NN_TILES
    if (has_avx512() && __builtin_cpu_supports("avx512vnni") && has_tiles())
      found.push_back({"amx", vnni::kLanes, vnni::kGroup, vnni::channel, amx::dense, vnni::depthwise, vnni::add, amx::begin, amx::end});
#endif
#endif
    return found;
  }();
  return all;
}

}  // namespace tilevault::nn
