/* Loops in the instructions of newer processors, chosen when they run; results are the same. With
 * KRONQ_PLAIN there are none but what GCC and Clang have for every processor, with KRONQ_AVX2 none
 * newer than that. */
#ifndef KRONQ_PROCESSORS_H
#define KRONQ_PROCESSORS_H

#if defined(__x86_64__) && !defined(KRONQ_PLAIN)
#include <immintrin.h>
#define X86
#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define HAS(instructions) __builtin_cpu_supports(#instructions)
#define HAS_AVX2 (HAS(avx2) && HAS(fma))
#define FOR_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#if defined(KRONQ_AVX2)
#define HAS_AVX512 0
#else
#define HAS_AVX512                                                                   \
    (HAS_AVX2 && HAS(avx512f) && HAS(avx512bw) && HAS(avx512dq) && HAS(avx512vl) && HAS(avx512vnni))
#endif
#endif

#endif
