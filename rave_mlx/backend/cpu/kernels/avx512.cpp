// Kernels for x86 with AVX-512.
#include "products.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace rave {
namespace {
constexpr int kWords = 16;
using F = __m512;
using I = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F spread(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(F x) { return _mm512_reduce_add_ps(x); }
template <int GROUPS>
inline F spread_groups(const float* p) {
    static_assert(GROUPS == 2 || GROUPS == 4, "four or eight codes a word");
    // No wider load than the groups: scratch ends behind them.
    if constexpr (GROUPS == 4) {
        __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        return _mm512_permutexvar_ps(lane, _mm512_castps128_ps512(_mm_loadu_ps(p)));
    } else {
        return _mm512_mask_blend_ps(0xff00, spread(p[0]), spread(p[1]));
    }
}
inline I words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline I some_words(const uint32_t* p, int count) { return _mm512_maskz_loadu_epi32((__mmask16)((1u << count) - 1), p); }
inline I keep(I x, uint32_t mask) { return _mm512_and_si512(x, _mm512_set1_epi32((int)mask)); }
inline I high(I x, int shift) { return _mm512_srli_epi32(x, (unsigned)shift); }
inline F number(I x) { return _mm512_cvtepi32_ps(x); }
inline F halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline F brains(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
}  // namespace
}  // namespace rave

#include "products.inl"

const rave::Kernels* rave::wide_vector_kernels() {
    static const Kernels kernels{"AVX-512", kWords, arrange, packed, expand, half, widen, attend};
    return __builtin_cpu_supports("avx512f") ? &kernels : nullptr;
}
#else
const rave::Kernels* rave::wide_vector_kernels() { return nullptr; }
#endif
