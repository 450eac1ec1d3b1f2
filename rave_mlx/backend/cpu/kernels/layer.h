// A decoder layer over one written token, on plain memory.
#pragma once
#include "matrix.h"

namespace rave {

struct Matrix {
    Packed w;
    int64_t count;
    const float* bias;
};

// RMS norms, attention with rotated queries and keys, SwiGLU.
struct Layer {
    const float* norms[4];  // Before attention and before the MLP; then of queries and of keys, or null.
    Matrix matrices[7];     // Of queries, keys, values, output, gate, up, down.
    float eps, head_eps, scale;
    int heads, kv_heads, width;

    int64_t hidden() const { return matrices[0].w.width; }
};

// Keys or values of a layer: `head` elements from one head to the next, `row` from one token to the next.
struct Store {
    float* data;
    int64_t head, row;
};

// What the layer makes of a token (hidden), in place. There are `count` tokens before it, whose keys and values are in
// the stores; its own are added to them. cosine and sine of its angles are width / 2 numbers each.
void layer_step(const Layer& layer, float* x, const Store& keys, const Store& values, int64_t count,
                const float* cosine, const float* sine);

}  // namespace rave
