/* Loops in the instructions of newer processors, chosen when they run; results are the same. */
#ifndef KRONQ_PROCESSORS_H
#define KRONQ_PROCESSORS_H

#if defined(__x86_64__)
#include <immintrin.h>
#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#endif
