/* Loops in the instructions of newer processors, chosen when they run; results are the same. With
 * KRONQ_PLAIN there are none but what GCC and Clang have for every processor. */
#ifndef KRONQ_PROCESSORS_H
#define KRONQ_PROCESSORS_H

#if defined(__x86_64__) && !defined(KRONQ_PLAIN)
#include <immintrin.h>
#define X86
#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#endif

#endif
