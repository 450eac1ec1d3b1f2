// Products of few rows with packed or half-precision weights: what the files for each kind of processor offer.
//
// A packed matrix is MLX's affine packing: words of 32 bits hold codes of 4 or 8 bits, the lowest first, and each group
// of 32, 64 or 128 codes of a row has a factor and a shift: weight = code * factor + shift.
#pragma once
#include <cstdint>

namespace rave {

enum class Type { f32, f16, bf16 };

constexpr int kGroup = 32;  // Smallest group of codes; factors and shifts of larger ones are repeated.
constexpr int kRows = 4;    // Most rows of x in one call of a kernel.

// A packed matrix (rows, width). Steps are in elements.
struct Packed {
    const uint32_t* codes;
    const void* factors;
    const void* shifts;
    Type type;  // Of factors and shifts.
    int bits, group;
    int64_t width, code_step, factor_step, shift_step;
};

// Rows of x, laid out for a kernel: `values` as `arrange` of the same kind of processor writes them, `sums` of each 32
// elements as (rows, width / 32).
struct Arranged {
    const float* values;
    const float* sums;
    int rows;
};

struct Half {
    const uint16_t* values;
    Type type;
    int64_t width, step;
};

// One kind of processor.
struct Kernels {
    const char* name;
    int words;  // Words of codes in a vector.
    // x (rows, width) of float32 into words * (32 / bits) * rows * blocks floats; zeros behind the width.
    void (*arrange)(const float* x, int rows, int64_t width, int bits, float* values, float* sums);
    // y[row * y_step + n] for first <= n < last; `scratch` holds 4 * (width / 32 + 32) floats.
    void (*packed)(const Packed&, const Arranged&, int64_t first, int64_t last, float* y, int64_t y_step, float* scratch);
    // The numbers of rows first <= n < last as (last - first, width).
    void (*expand)(const Packed&, int64_t first, int64_t last, float* out, float* scratch);
    // x (rows, width) with rows x_step apart.
    void (*half)(const Half&, const float* x, int rows, int64_t x_step, int64_t first, int64_t last, float* y,
                 int64_t y_step);
    void (*widen)(const uint16_t* from, Type type, int64_t count, float* to);
    // One head's answer (width) to a scaled query over `count` keys and values (rows `step` apart), and one more of each;
    // `scores` holds count + 1 floats. The width is a multiple of 16, up to 256.
    void (*attend)(const float* query, const float* keys, const float* values, int64_t count, int64_t key_step,
                   int64_t value_step, const float* key, const float* value, int64_t width, float* scores, float* out);
};

const Kernels* portable_kernels();
const Kernels* vector_kernels();       // AVX2 with FMA and F16C, or NEON; null on other processors.
const Kernels* wide_vector_kernels();  // AVX-512; null on other processors.

}  // namespace rave
