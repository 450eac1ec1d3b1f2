// Kernels for any processor: vectors of eight in plain C++, which the compiler lays onto what there is.
#include "products.h"

namespace rave {
namespace {
constexpr int kWords = 8;
struct F { float at[kWords]; };
struct I { uint32_t at[kWords]; };
#define EACH for (int i = 0; i < kWords; ++i)

inline F spread(float x) { F out; EACH out.at[i] = x; return out; }
inline F zero() { return spread(0); }
inline F load(const float* p) { F out; EACH out.at[i] = p[i]; return out; }
inline void store(float* p, const F& x) { EACH p[i] = x.at[i]; }
inline F mul(const F& a, const F& b) { F out; EACH out.at[i] = a.at[i] * b.at[i]; return out; }
inline F fma(const F& a, const F& b, const F& c) { F out; EACH out.at[i] = a.at[i] * b.at[i] + c.at[i]; return out; }
inline float sum(const F& x) {
    return ((x.at[0] + x.at[4]) + (x.at[1] + x.at[5])) + ((x.at[2] + x.at[6]) + (x.at[3] + x.at[7]));
}
template <int GROUPS>
inline F spread_groups(const float* p) { F out; EACH out.at[i] = p[i * GROUPS / kWords]; return out; }
inline I words(const uint32_t* p) { I out; EACH out.at[i] = p[i]; return out; }
inline I some_words(const uint32_t* p, int count) { I out; EACH out.at[i] = i < count ? p[i] : 0; return out; }
inline I keep(const I& x, uint32_t mask) { I out; EACH out.at[i] = x.at[i] & mask; return out; }
inline I high(const I& x, int shift) { I out; EACH out.at[i] = x.at[i] >> shift; return out; }
inline F number(const I& x) { F out; EACH out.at[i] = (float)(int32_t)x.at[i]; return out; }
inline F halves(const uint16_t* p);
inline F brains(const uint16_t* p);
}  // namespace
}  // namespace rave

#include "products.inl"

namespace rave {
namespace {
inline F halves(const uint16_t* p) { F out; EACH out.at[i] = scalar_half(p[i]); return out; }
inline F brains(const uint16_t* p) { F out; EACH out.at[i] = scalar_brain(p[i]); return out; }
}  // namespace

const Kernels* portable_kernels() {
    static const Kernels kernels{"portable", kWords, arrange, packed, expand, half, widen, attend};
    return &kernels;
}
}  // namespace rave
