// One kernel, compiled for more than one instruction set: run(f) calls f, and where the machine has
// AVX2 and BMI2 it calls the same f compiled with them. Integers only inside, so the bytes are the same.
#pragma once

namespace tilevault {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
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

#else

inline bool has_avx2() { return false; }
inline bool has_avx512() { return false; }

template <class F>
void run(F&& f) {
  f();
}

#endif

}  // namespace tilevault
