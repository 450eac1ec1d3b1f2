// metal_emu.h -- run Metal compute kernels on a CPU, for tests of numerics and synchronisation.
#pragma once
#include "language.h"

namespace metal {
// ---- simdgroup functions
#define EMU_RED(name, id, expr)                                          \
  template <class T>                                                     \
  inline T name(T v) {                                                   \
    return emu::collective<T, T>(v, id, [](auto* in, auto* out, int n) { \
      T x[32];                                                           \
      for (int i = 0; i < n; i++) std::memcpy(&x[i], in[i], sizeof(T));  \
      for (int s = 16; s; s >>= 1)                                       \
        for (int i = 0; i < s; i++)                                      \
          if (i + s < n) {                                               \
            T a = x[i], b = x[i + s];                                    \
            x[i] = expr;                                                 \
          }                                                              \
      for (int i = 0; i < n; i++) std::memcpy(out[i], &x[0], sizeof(T)); \
    });                                                                  \
  }
EMU_RED(simd_sum, 1, T(a + b))
EMU_RED(simd_max, 2, (a < b ? b : a)) EMU_RED(simd_min, 3, (b < a ? b : a))
    EMU_RED(simd_product, 4, T(a* b)) template <class T>
    struct EmuSh {
  T v;
  ushort k;
};
#define EMU_SHUF(name, id, src)                                                              \
  template <class T>                                                                         \
  inline T name(T v, ushort k) {                                                             \
    return emu::collective<EmuSh<T>, T>(EmuSh<T>{v, k}, id, [](auto* in, auto* out, int n) { \
      for (int i = 0; i < n; i++) {                                                          \
        EmuSh<T> m;                                                                          \
        std::memcpy(&m, in[i], sizeof m);                                                    \
        int k = m.k;                                                                         \
        int j = (src);                                                                       \
        EmuSh<T> o = m;                                                                      \
        if (j >= 0 && j < n) std::memcpy(&o, in[j], sizeof o);                               \
        std::memcpy(out[i], &o.v, sizeof(T));                                                \
      }                                                                                      \
    });                                                                                      \
  }
EMU_SHUF(simd_shuffle, 10, k)
EMU_SHUF(simd_shuffle_xor, 11, i ^ k) EMU_SHUF(simd_shuffle_down, 12, i + k) EMU_SHUF(simd_shuffle_up, 13, i - k)
    EMU_SHUF(simd_broadcast, 14, k) inline bool simd_any(bool b) {
  return simd_max<int>(b) != 0;
}
inline bool simd_all(bool b) { return simd_min<int>(b) != 0; }
template <class T>
inline T simd_broadcast_first(T v) {
  return simd_broadcast<T>(v, 0);
}

// ---- simdgroup_matrix: each lane owns two neighbours of a row, in the layout of Apple GPUs
template <class T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "8x8 only");
  vec<T, 2> e;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T d) {
    int r, c;
    coord(r, c);
    e.x = r == c ? d : T(0);
    e.y = r == c + 1 ? d : T(0);
  }
  static void coord(int lane, int& r, int& c) {
    int q = lane / 4;
    r = (q & 4) + (lane / 2) % 4;
    c = (q & 2) * 2 + (lane % 2) * 2;
  }
  static void coord(int& r, int& c) { coord(emu::me().tid % 32, r, c); }
  vec<T, 2>& thread_elements() { return e; }
};
template <class T>
using simdgroup_t88 = simdgroup_matrix<T, 8, 8>;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
template <class T, int R, int C>
inline simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, R, C> m;
  m.e = vec<T, 2>(v, v);
  return m;
}
template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                          simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c) {
  struct In {
    vec<A, 2> a;
    vec<B, 2> b;
    vec<C, 2> c;
  };
  d.e = emu::collective<In, vec<D, 2>>(In{a.e, b.e, c.e}, 20, [](auto* in, auto* out, int n) {
    if (n != 32) emu::fail("simdgroup_matrix needs 32 lanes");
    float A_[8][8], B_[8][8], C_[8][8];
    for (int l = 0; l < 32; l++) {
      In x;
      std::memcpy(&x, in[l], sizeof x);
      int r, q;
      simdgroup_matrix<D, 8, 8>::coord(l, r, q);
      A_[r][q] = x.a.x;
      A_[r][q + 1] = x.a.y;
      B_[r][q] = x.b.x;
      B_[r][q + 1] = x.b.y;
      C_[r][q] = x.c.x;
      C_[r][q + 1] = x.c.y;
    }
    for (int i = 0; i < 8; i++)
      for (int k = 0; k < 8; k++)
        for (int j = 0; j < 8; j++) C_[i][j] += A_[i][k] * B_[k][j];
    for (int l = 0; l < 32; l++) {
      int r, q;
      simdgroup_matrix<D, 8, 8>::coord(l, r, q);
      vec<D, 2> v{(D)C_[r][q], (D)C_[r][q + 1]};
      std::memcpy(out[l], &v, sizeof v);
    }
  });
}
template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)));
}
template <class T, class P>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const P* p, ulong ld = 8,
                           vec<ulong, 2> o = vec<ulong, 2>(0, 0), bool tr = false) {
  int r, c;
  m.coord(r, c);
  p += o.y * ld + o.x;
  if (tr)
    m.e = vec<T, 2>(T(p[c * ld + r]), T(p[(c + 1) * ld + r]));
  else
    m.e = vec<T, 2>(T(p[r * ld + c]), T(p[r * ld + c + 1]));
}
template <class T, class P>
inline void simdgroup_store(simdgroup_matrix<T, 8, 8> m, P* p, ulong ld = 8, vec<ulong, 2> o = vec<ulong, 2>(0, 0),
                            bool tr = false) {
  int r, c;
  m.coord(r, c);
  p += o.y * ld + o.x;
  if (tr) {
    p[c * ld + r] = P(m.e.x);
    p[(c + 1) * ld + r] = P(m.e.y);
  } else {
    p[r * ld + c] = P(m.e.x);
    p[r * ld + c + 1] = P(m.e.y);
  }
}

// ---- atomics
enum memory_order { memory_order_relaxed = __ATOMIC_RELAXED };
template <class T>
struct atomic {
  T v;
};
typedef atomic<float> atomic_float;
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
template <class T>
inline T atomic_fetch_add_explicit(atomic<T>* p, T x, memory_order) {
  if constexpr (std::is_integral<T>::value)
    return __atomic_fetch_add(&p->v, x, __ATOMIC_RELAXED);
  else {
    T o = p->v, n;
    do {
      n = o + x;
    } while (!__atomic_compare_exchange(&p->v, &o, &n, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return o;
  }
}
template <class T>
inline T atomic_load_explicit(const atomic<T>* p, memory_order) {
  return p->v;
}
template <class T>
inline void atomic_store_explicit(atomic<T>* p, T x, memory_order) {
  p->v = x;
}
}  // namespace metal
#define EMU_VECT(T)              \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;
EMU_VECT(float)
EMU_VECT(half) EMU_VECT(bfloat) EMU_VECT(int) EMU_VECT(uint) EMU_VECT(short) EMU_VECT(ushort) EMU_VECT(uchar)
    EMU_VECT(ulong)
#ifndef EMU_CUDA
using namespace metal;
#endif

typedef half float16_t;
typedef bfloat bfloat16_t;
template <class U>
struct Limits {
  static constexpr U max = std::numeric_limits<U>::infinity(), min = -std::numeric_limits<U>::infinity(),
                     finite_max = std::numeric_limits<U>::max(), finite_min = std::numeric_limits<U>::lowest();
};
template <int K>
struct Limits<emu::f16<K>> {
  typedef emu::f16<K> U;
  typedef metal::numeric_limits<U> L;
  static inline const U max = L::infinity(), min = -L::infinity(), finite_max = L::max(), finite_min = L::lowest();
};
#define METAL_FUNC inline
#define M_LOG2E_F 1.44269504088896340736f
#define M_E_F 2.71828182845904523536f
#define MLX_MTL_PRAGMA_UNROLL
// ---- [[attributes]] as values, under the names MLX declares
namespace emu {
inline uint3 V(u3 a) { return uint3(a.x, a.y, a.z); }
inline uint3 a_thread_position_in_grid() { return V(me().pos_grid); }
inline uint3 a_thread_position_in_threadgroup() { return V(me().pos_tg); }
inline uint3 a_threadgroup_position_in_grid() { return V(G->tg_pos); }
inline uint3 a_threadgroups_per_grid() { return V(G->tgs); }
inline uint3 a_threads_per_threadgroup() { return V(G->threads_per_tg); }
inline uint3 a_threads_per_grid() { return V(G->grid); }
inline uint3 a_grid_size() { return V(G->grid); }
inline uint3 a_dispatch_threads_per_threadgroup() { return V(G->threads_per_tg); }
inline uint a_thread_index_in_threadgroup() { return me().tid; }
inline uint a_thread_index_in_simdgroup() { return me().tid % 32; }
inline uint a_simdgroup_index_in_threadgroup() { return me().tid / 32; }
inline uint a_simdgroups_per_threadgroup() { return (uint)G->sg.size(); }
inline uint a_dispatch_simdgroups_per_threadgroup() { return (uint)G->sg.size(); }
inline uint a_threads_per_simdgroup() { return 32; }
inline uint a_thread_execution_width() { return 32; }
}  // namespace emu
#define EMU_TG(T, name, count) \
  const emu::TgArray<T> name{(T*)emu::tg_alloc(__COUNTER__, sizeof(T) * (count)), long(count)};
// Address spaces are erased in the CPU build; lint.py checks them.
#ifndef EMU_CUDA
#define device
#define constant
#define thread
#define threadgroup
#define kernel
#endif
