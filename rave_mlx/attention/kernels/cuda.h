// The Metal names of the kernels in CUDA's terms. Stands between MLX's own header and common.metal.
//
// An 8x8 simdgroup matrix is two elements a lane in the layout of Apple GPUs; its product goes through warp shuffles,
// which keeps the one kernel text and float32 throughout. Tensor cores are not used.

#define device
#define constant
#define thread
#define threadgroup __shared__
#define FUNCTION __device__ inline
#define SHARED_POINTER(...) __VA_ARGS__*
#define UNROLL _Pragma("unroll")

#define threadgroup_position_in_grid blockIdx
#define threadgroups_per_grid gridDim
#define thread_position_in_threadgroup threadIdx
#define thread_position_in_grid \
  make_uint3(blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y, blockIdx.z)
#define thread_index_in_simdgroup (threadIdx.x % 32)
#define simdgroup_index_in_threadgroup (threadIdx.x / 32)
#define threadgroup_barrier(flags) __syncthreads()
#define simd_any(condition) __any_sync(0xffffffffu, condition)
#define simd_shuffle_xor(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef M_LOG2E_F
#define M_LOG2E_F 1.44269504088896340736f
#endif

typedef unsigned short ushort;
typedef unsigned int uint;

namespace fast {
__device__ inline float exp2(float x) { return exp2f(x); }
__device__ inline float log2(float x) { return log2f(x); }
__device__ inline float rsqrt(float x) { return rsqrtf(x); }
}  // namespace fast

template <typename T, int R, int C>
struct simdgroup_matrix {
  T e[2];
  __device__ T* thread_elements() { return e; }
};

template <typename T, int R, int C>
__device__ inline simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, R, C> m;
  m.e[0] = value;
  m.e[1] = value;
  return m;
}

// The lane that owns element (row, column).
__device__ inline int simdgroup_owner(int row, int column) {
  return ((column >> 1) & 1) | ((row & 3) << 1) | ((column & 4) << 1) | ((row & 4) << 2);
}

__device__ inline void simdgroup_multiply_accumulate(simdgroup_matrix<float, 8, 8>& d, simdgroup_matrix<float, 8, 8> a,
                                                     simdgroup_matrix<float, 8, 8> b, simdgroup_matrix<float, 8, 8> c) {
  const int lane = int(threadIdx.x % 32);
  const int row = ((lane / 4) & 4) + (lane / 2) % 4;
  const int column = ((lane / 4) & 2) * 2 + (lane % 2) * 2;
  float sum[2] = {c.e[0], c.e[1]};
  for (int k = 0; k < 8; k++) {
    const float x = __shfl_sync(0xffffffffu, a.e[k & 1], simdgroup_owner(row, k));
    sum[0] += x * __shfl_sync(0xffffffffu, b.e[0], simdgroup_owner(k, column));
    sum[1] += x * __shfl_sync(0xffffffffu, b.e[1], simdgroup_owner(k, column));
  }
  d.e[0] = sum[0];
  d.e[1] = sum[1];
}
