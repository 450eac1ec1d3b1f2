// language.h -- the types and functions of Metal that a kernel may use, on a CPU.
#pragma once
#include "fibers.h"

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
namespace emu {
inline float h2f(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 x;
  std::memcpy(&x, &h, 2);
  return (float)x;
#else
#error "need F16C"
#endif
}
inline uint16_t f2h(float f) {
#if defined(__F16C__)
  return _cvtss_sh(f, 0);
#elif defined(__aarch64__)
  __fp16 x = (__fp16)f;
  uint16_t h;
  std::memcpy(&h, &x, 2);
  return h;
#endif
}
inline float b2f(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline uint16_t f2b(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
template <int K>
struct f16 {  // K=0 half, K=1 bfloat; stored in 16 bits, each operation rounds
  uint16_t bits;
  f16() = default;
  template <class U, class = std::enable_if_t<std::is_arithmetic<U>::value>>
  f16(U v) : bits(K ? f2b((float)v) : f2h((float)v)) {}
  f16(f16<1 - K> o) : bits(K ? f2b((float)o) : f2h((float)o)) {}
  operator float() const { return K ? b2f(bits) : h2f(bits); }
  f16& operator+=(float o) {
    *this = f16((float)*this + o);
    return *this;
  }
  f16& operator-=(float o) {
    *this = f16((float)*this - o);
    return *this;
  }
  f16& operator*=(float o) {
    *this = f16((float)*this * o);
    return *this;
  }
  f16& operator/=(float o) {
    *this = f16((float)*this / o);
    return *this;
  }
};
template <int K>
inline f16<K> operator+(f16<K> a, f16<K> b) {
  return f16<K>((float)a + (float)b);
}
template <int K>
inline f16<K> operator-(f16<K> a, f16<K> b) {
  return f16<K>((float)a - (float)b);
}
template <int K>
inline f16<K> operator*(f16<K> a, f16<K> b) {
  return f16<K>((float)a * (float)b);
}
template <int K>
inline f16<K> operator/(f16<K> a, f16<K> b) {
  return f16<K>((float)a / (float)b);
}
template <int K>
inline f16<K> operator-(f16<K> a) {
  return f16<K>(-(float)a);
}
}  // namespace emu
typedef emu::f16<0> half;
typedef emu::f16<1> bfloat;

namespace metal {
template <class T, int N>
struct vec;
template <class T>
struct vec<T, 1> {
  T x;
  vec() = default;
  vec(T a) : x(a) {}
  T& operator[](int) { return x; }
  const T& operator[](int) const { return x; }
  operator T() const { return x; }
};
template <class T>
struct vec<T, 2> {
  T x, y;
  vec() = default;
  explicit vec(T a) : x(a), y(a) {}
  vec(T a, T b) : x(a), y(b) {}
  template <class U>
  explicit vec(vec<U, 2> o) : x(T(o.x)), y(T(o.y)) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
};
template <class T>
struct vec<T, 3> {
  T x, y, z;
  vec() = default;
  explicit vec(T a) : x(a), y(a), z(a) {}
  vec(T a, T b, T c) : x(a), y(b), z(c) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
};
template <class T>
struct alignas(sizeof(T) * 4) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  explicit vec(T a) : x(a), y(a), z(a), w(a) {}
  vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  template <class U>
  explicit vec(vec<U, 4> o) : x(T(o.x)), y(T(o.y)), z(T(o.z)), w(T(o.w)) {}
  T& operator[](int i) { return (&x)[i]; }
  const T& operator[](int i) const { return (&x)[i]; }
};
#define EMU_VOP(op)                                        \
  template <class T, int N>                                \
  inline vec<T, N> operator op(vec<T, N> a, vec<T, N> b) { \
    vec<T, N> r;                                           \
    for (int i = 0; i < N; i++) r[i] = a[i] op b[i];       \
    return r;                                              \
  }                                                        \
  template <class T, int N>                                \
  inline vec<T, N> operator op(vec<T, N> a, T b) {         \
    vec<T, N> r;                                           \
    for (int i = 0; i < N; i++) r[i] = a[i] op b;          \
    return r;                                              \
  }                                                        \
  template <class T, int N>                                \
  inline vec<T, N> operator op(T a, vec<T, N> b) {         \
    vec<T, N> r;                                           \
    for (int i = 0; i < N; i++) r[i] = a op b[i];          \
    return r;                                              \
  }                                                        \
  template <class T, int N, class B>                       \
  inline vec<T, N>& operator op## = (vec<T, N> & a, B b) { \
    a = a op b;                                            \
    return a;                                              \
  }
EMU_VOP(+)
EMU_VOP(-) EMU_VOP(*) EMU_VOP(/) template <class T, int N>
inline T dot(vec<T, N> a, vec<T, N> b) {
  T s = a[0] * b[0];
  for (int i = 1; i < N; i++) s = s + a[i] * b[i];
  return s;
}

template <class T>
struct numeric_limits : std::numeric_limits<T> {};
template <int K>
struct numeric_limits<emu::f16<K>> {
  static emu::f16<K> mk(uint16_t b) {
    emu::f16<K> h;
    h.bits = b;
    return h;
  }
  static emu::f16<K> infinity() { return mk(K ? 0x7f80 : 0x7c00); }
  static emu::f16<K> max() { return mk(K ? 0x7f7f : 0x7bff); }
  static emu::f16<K> lowest() { return mk(K ? 0xff7f : 0xfbff); }
};
using std::bool_constant;
using std::conditional;
using std::conditional_t;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_floating_point;
using std::is_floating_point_v;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;
using std::remove_reference_t;
using std::true_type;

#define EMU_F1(n, e)                    \
  inline float n(float x) { return e; } \
  inline half n(half h) {               \
    float x = h;                        \
    return half(float(e));              \
  }                                     \
  inline bfloat n(bfloat h) {           \
    float x = h;                        \
    return bfloat(float(e));            \
  }
#define EMU_MATH                                                                                                      \
  EMU_F1(exp, std::exp(x))                                                                                            \
  EMU_F1(exp2, std::exp2(x)) EMU_F1(log, std::log(x)) EMU_F1(log2, std::log2(x)) EMU_F1(tanh, std::tanh(x))           \
      EMU_F1(sqrt, std::sqrt(x)) EMU_F1(rsqrt, 1.0f / std::sqrt(x)) EMU_F1(sin, std::sin(x)) EMU_F1(cos, std::cos(x)) \
          EMU_F1(abs, std::fabs(x)) EMU_F1(fabs, std::fabs(x)) inline float                                           \
          divide(float a, float b) {                                                                                  \
    return a / b;                                                                                                     \
  }
EMU_MATH
namespace precise {
EMU_MATH
}
// fast:: in Metal is less exact; with fast_ulp = n an error of up to n ulp is injected.
inline int fast_ulp = 0;
inline float jitter(float y) {
  if (!fast_ulp || !std::isfinite(y) || y == 0) return y;
  static thread_local uint32_t s = 12345;
  s = s * 1664525u + 1013904223u;
  int32_t i;
  std::memcpy(&i, &y, 4);
  i += int(s >> 8) % (2 * fast_ulp + 1) - fast_ulp;
  std::memcpy(&y, &i, 4);
  return y;
}
namespace fast {
inline float exp(float x) { return jitter(std::exp(x)); }
// What an overflow gives is not promised anywhere, so a kernel that relies on one has to be seen.
inline float exp2(float x) {
  if (x >= 128.0f) return std::numeric_limits<float>::quiet_NaN();
  return jitter(std::exp2(x));
}
inline float log(float x) { return jitter(std::log(x)); }
inline float log2(float x) { return jitter(std::log2(x)); }
inline float tanh(float x) {
  if (std::fabs(x) > 44.0f) return std::numeric_limits<float>::quiet_NaN();
  return jitter(std::tanh(x));
}  // exp(2x) overflows in Metal's fast tanh
inline float divide(float a, float b) { return jitter(a / b); }
inline float rsqrt(float x) { return jitter(1.0f / std::sqrt(x)); }
}  // namespace fast
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T clamp(T x, T a, T b) {
  return min(max(x, a), b);
}
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline bool isnan(float x) { return std::isnan(x); }
inline bool isinf(float x) { return std::isinf(x); }
template <class T>
inline T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class To, class From>
inline To as_type(From f) {
  static_assert(sizeof(To) == sizeof(From), "");
  To t;
  std::memcpy(&t, &f, sizeof t);
  return t;
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
inline void threadgroup_barrier(mem_flags) { emu::tg_barrier(); }
inline void simdgroup_barrier(mem_flags) { emu::sg_barrier(); }

}  // namespace metal
