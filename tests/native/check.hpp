// What the native tests share.
#pragma once

#include <cstdio>
#include <cstdlib>

// Ends the test at the first condition that does not hold.
#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);          \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)
