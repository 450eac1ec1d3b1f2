// Products of whole arrays, on plain memory: few rows with the kernels, many by a BLAS on expanded blocks of the matrix.
#pragma once
#include "products.h"

namespace rave {

// A matrix anywhere in memory; steps are in elements.
struct Operand {
    const void* data;
    Type type;
    int64_t rows, width, row_step, step;
};

using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);

void set_up(const Kernels* kernels, int threads, Sgemm sgemm);
const Kernels* kernels();
bool has_blas();

// y (x.rows, count) = x (x.rows, width) times the transpose of w (count, width).
void packed_product(const Packed& w, int64_t count, const Operand& x, float* y);
// y (x.rows, w.width) = x (x.rows, count) times w (count, width); needs a BLAS.
void packed_product_plain(const Packed& w, int64_t count, const Operand& x, float* y);
// Row n of w as numbers (width).
void packed_row(const Packed& w, int64_t n, float* y);

// One of several matrices over the same row x: y (count), with a bias added where there is one.
struct Output {
    Packed w;
    int64_t count;
    const float* bias;
    float* y;
};

// All y = x w^T + bias for one row x; the matrices have the same width.
void packed_outputs(const Output* outputs, int number, const float* x);
// body(head) for every head, shared out over the threads; `cost` in multiplications a head.
void each_head(int64_t heads, int64_t cost, const void* context, void (*body)(const void* context, int64_t head));

// y (a.rows, b.rows) = a (rows, width) times the transpose of b (count, width).
void plain_product(const Operand& a, const Operand& b, float* y);

}  // namespace rave
