// cuda_emu.h -- the CUDA names that the kernels' CUDA form uses, on top of the same fibers.
#pragma once
#define EMU_CUDA
#include "metal_emu.h"

#define __device__
#define __global__
#define __shared__
#define __grid_constant__
#define threadIdx emu::me().pos_tg
#define blockIdx emu::G->tg_pos
#define blockDim emu::G->threads_per_tg
#define gridDim emu::G->tgs
#define __syncthreads() emu::tg_barrier()
#define __shfl_xor_sync(mask, value, k) metal::simd_shuffle_xor(value, ushort(k))
#define __any_sync(mask, condition) metal::simd_any(condition)
#define __shfl_sync(mask, value, lane) metal::simd_shuffle(value, ushort(lane))
#undef M_LOG2E_F

typedef half __half;
typedef bfloat __nv_bfloat16;
struct Shape {
  int at[8];
  int operator[](int i) const { return at[i]; }
};
struct Strides {
  int64_t at[8];
  int64_t operator[](int i) const { return at[i]; }
};
inline emu::u3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using metal::max;
using metal::min;
