// One kernel, compiled for more than one instruction set: run(f) calls f, and where the machine has
// AVX2 and BMI2 it calls the same f compiled with them. Inside are integers only, or floats whose order f gives
// and which no compiler may fuse (-ffp-contract=off), so the bytes are the same. TILEVAULT_PORTABLE: without all that.
#pragma once

namespace tilevault {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(TILEVAULT_PORTABLE)
#define TILEVAULT_DISPATCH 1

inline bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                          __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
  return has;
}

inline bool has_avx512() {
  static const bool has = has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

// flatten: everything that f calls is compiled in here, for this target.
template <class F>
__attribute__((target("avx2,bmi,bmi2,lzcnt"), flatten, noinline)) void run_avx2(F& f) {
  f();
}

template <class F>
void run(F&& f) {
  if (has_avx2()) {
    run_avx2(f);
  } else {
    f();
  }
}

template <class F>
__attribute__((target("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512vl,avx512dq"), flatten, noinline)) void run_avx512(F& f) {
  f();
}

// wide(f) where there are vectors of 512 bits, else run(narrow).
template <class Wide, class Narrow>
void run_widest(Wide&& wide, Narrow&& narrow) {
  if (has_avx512()) {
    run_avx512(wide);
  } else {
    run(narrow);
  }
}

#else

inline bool has_avx2() { return false; }
inline bool has_avx512() { return false; }

template <class F>
void run(F&& f) {
  f();
}

template <class Wide, class Narrow>
void run_widest(Wide&&, Narrow&& narrow) {
  narrow();
}

#endif

}  // namespace tilevault
