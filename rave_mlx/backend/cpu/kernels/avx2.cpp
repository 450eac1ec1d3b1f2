// Kernels for x86 with AVX2, FMA and F16C.
#include "products.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

namespace rave {
namespace {
constexpr int kWords = 8;
using F = __m256;
using I = __m256i;

inline F zero() { return _mm256_setzero_ps(); }
inline F spread(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline float sum(F x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
template <int GROUPS>
inline F spread_groups(const float* p) {
    static_assert(GROUPS == 2, "four or eight codes a word");
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(p)), _mm_broadcast_ss(p + 1), 1);
}
inline I words(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline I some_words(const uint32_t* p, int count) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_epi32((const int*)p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
}
inline I keep(I x, uint32_t mask) { return _mm256_and_si256(x, _mm256_set1_epi32((int)mask)); }
inline I high(I x, int shift) { return _mm256_srli_epi32(x, shift); }
inline F number(I x) { return _mm256_cvtepi32_ps(x); }
inline F halves(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline F brains(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
}  // namespace
}  // namespace rave

#include "products.inl"

const rave::Kernels* rave::vector_kernels() {
    static const Kernels kernels{"AVX2", kWords, arrange, packed, expand, half, widen, attend};
    bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return has ? &kernels : nullptr;
}
#elif !defined(__aarch64__)
const rave::Kernels* rave::vector_kernels() { return nullptr; }
#endif
