// metal_lint.h -- declarations for a type check of Metal source by clang's OpenCL C++ mode, which has the
// same address spaces (Metal's front end grew from it).  Nothing here runs.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define device __global
#define threadgroup __local
#define thread __private
#define constant __constant
#define METAL_FUNC inline
#define INFINITY __builtin_inff()
typedef half bfloat16_t;
#define M_LOG2E_F 1.44269504088896340736f
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;
typedef half float16_t;
#define VT(T)                                         \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
VT(float) VT(half) VT(int) VT(uint) VT(short) VT(ushort) VT(ulong) namespace metal {
  template <class T, int N>
  using vec = T __attribute__((ext_vector_type(N)));
  enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
  bool simd_any(bool);
void threadgroup_barrier(mem_flags);
  void simdgroup_barrier(mem_flags);
#define S1(n)        \
  template <class T> \
  T n(T);
  S1(simd_sum)
  S1(simd_max) S1(simd_min) S1(abs)
#define S2(n)        \
  template <class T> \
  T n(T, ushort);
      S2(simd_shuffle) S2(simd_shuffle_xor) S2(simd_shuffle_down) S2(simd_shuffle_up) S2(simd_broadcast)
#define F1(n)     \
  float n(float); \
  half n(half);
#define FS F1(exp) F1(exp2) F1(log) F1(log2) F1(tanh) F1(sqrt) F1(rsqrt)
          FS namespace fast {
    FS
  }
  namespace precise {
  FS
  }
  template <class T>
  T max(T, T);
  template <class T>
  T min(T, T);
  template <class T>
  T clamp(T, T, T);
  template <class T, int R, int C>
  struct simdgroup_matrix {
    vec<T, 2> e;
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T);
    thread vec<T, 2>& thread_elements() thread { return e; }
  };
  template <class T, int R, int C>
  simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T);
  template <class D, class A, class B, class C>
  void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>,
                                     simdgroup_matrix<B, 8, 8>, simdgroup_matrix<C, 8, 8>);
  template <class D, class A, class B>
  void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>);
  template <class T>
  void simdgroup_load(thread simdgroup_matrix<T, 8, 8>&, const device T*, ulong ld = 8, ulong2 o = 0, bool tr = false);
  template <class T>
  void simdgroup_load(thread simdgroup_matrix<T, 8, 8>&, const threadgroup T*, ulong ld = 8, ulong2 o = 0,
                      bool tr = false);
  template <class T>
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, device T*, ulong ld = 8, ulong2 o = 0, bool tr = false);
  template <class T>
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, threadgroup T*, ulong ld = 8, ulong2 o = 0, bool tr = false);
  enum memory_order { memory_order_relaxed };
  template <class T>
  struct atomic {
    T v;
  };
  template <class T>
  T atomic_fetch_add_explicit(volatile device atomic<T>*, T, memory_order);
}  // namespace metal
using namespace metal;
template <class U>
struct Limits {
  static constexpr constant U max = U(__builtin_inff()), min = -U(__builtin_inff()), finite_max = U(__FLT_MAX__),
                              finite_min = -U(__FLT_MAX__);
};
