// Shared by the pair-gate kernels. Scores live in units of log2: exp2 is the one cheap exponential of these GPUs.
//
// The text is Metal, and it is also CUDA: cuda.h gives these names a CUDA meaning. So there are no pointers to
// threadgroup memory except through SHARED_POINTER, no member functions (Metal 4.1 puts `this` in a generic address
// space), and threadgroup arrays stand in the outermost scope only.

#ifndef SHARED_POINTER
#define SHARED_POINTER(...) threadgroup __VA_ARGS__*
#define FUNCTION inline
#define UNROLL _Pragma("clang loop unroll(full)")
#endif

// A loop over registers: arrays stay in registers only when every index is known.
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)

constant constexpr float LOWEST = -3.0e38f;  // finite, so that differences of masked scores are never NaN
constant constexpr float LN2 = 0.69314718055994531f;

// N neighbours moved as one load. It claims the alignment of one element, so a view may start anywhere.
template <typename T, int N>
struct Chunk {
  T item[N];
};

// phi in units of log2. y = x * gate_in; gate_out is used by tanh only. 0 identity, 1 tanh, 2 suppress, 3 boost.
// Metal's fast tanh is NaN beyond |x| = 44; this form is exact at both ends, and phi(0) is 0 to the bit. Its exponent is
// clamped where the result is 1 to the bit already: fast::exp2 promises nothing about an overflow. A NaN stays one.
template <int PHI>
FUNCTION float squash(float y, float gate_out) {
  if (PHI == 0) return y;
  if (PHI == 1) return gate_out * (1.0f - 2.0f / (fast::exp2(y > 64.0f ? 64.0f : y) + 1.0f));
  const float tail = fast::log2(1.0f + fast::exp2(y < 0.0f ? y : -y));
  if (PHI == 2) return 1.0f - (y < 0.0f ? -y : 0.0f) - tail;
  return (y > 0.0f ? y : 0.0f) + tail - 1.0f;
}

// N elements of a row as float; a view with a stride inside the row is gathered.
template <int N, typename T>
FUNCTION void load_row(thread float* to, const device T* from, int64_t stride) {
  static_assert(alignof(Chunk<T, N>) == alignof(T), "a load claims more alignment than a view has");
  if (stride == 1) {
    const Chunk<T, N> c = *(const device Chunk<T, N>*)from;
    EACH(i, N) to[i] = float(c.item[i]);
  } else {
    EACH(i, N) to[i] = float(from[i * stride]);
  }
}

// N elements of a row as they are.
template <int N, typename T>
FUNCTION Chunk<T, N> load_chunk(const device T* from, int64_t stride) {
  static_assert(alignof(Chunk<T, N>) == alignof(T), "a load claims more alignment than a view has");
  Chunk<T, N> c;
  if (stride == 1) {
    c = *(const device Chunk<T, N>*)from;
  } else {
    EACH(i, N) c.item[i] = from[i * stride];
  }
  return c;
}
