// Kernels for 64-bit Arm.
#include "products.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace rave {
namespace {
constexpr int kWords = 4;
using F = float32x4_t;
using I = uint32x4_t;

inline F zero() { return vdupq_n_f32(0); }
inline F spread(float x) { return vdupq_n_f32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline float sum(F x) { return vaddvq_f32(x); }
template <int GROUPS>
inline F spread_groups(const float*) { static_assert(GROUPS < 0, "a group has at least four words"); return zero(); }
inline I words(const uint32_t* p) { return vld1q_u32(p); }
inline I some_words(const uint32_t* p, int count) {
    uint32_t some[kWords] = {0, 0, 0, 0};
    for (int i = 0; i < count; ++i) some[i] = p[i];
    return vld1q_u32(some);
}
inline I keep(I x, uint32_t mask) { return vandq_u32(x, vdupq_n_u32(mask)); }
inline I high(I x, int shift) { return vshlq_u32(x, vdupq_n_s32(-shift)); }
inline F number(I x) { return vcvtq_f32_u32(x); }
inline F halves(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline F brains(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
}  // namespace
}  // namespace rave

#include "products.inl"

const rave::Kernels* rave::vector_kernels() {
    static const Kernels kernels{"NEON", kWords, arrange, packed, expand, half, widen, attend};
    return &kernels;
}
#endif
