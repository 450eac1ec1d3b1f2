// Attention of many queries on plain memory: a block of scores at a time, which stays in a core's cache.
#pragma once
#include "matrix.h"

namespace rave {

// Vectors (batch, heads, count, width); steps are in elements, the numbers of a vector lie one after the other.
struct Vectors {
    const float* data;
    int64_t batch_step, head_step, step, heads, count, width;
    const float* at(int64_t batch, int64_t head, int64_t index) const {
        return data + batch * batch_step + head * head_step + index * step;
    }
};

// A bias on the scores of keys first <= j < last: `limit` times tanh(x / limit), or x itself where the limit is 0, of the
// products x of features of queries and keys.
struct Bias {
    Vectors queries, keys;
    int64_t first, last;
    float limit;
    const int* places;  // For each head of keys its place among those of `keys`, or -1 for a head without a bias.
};

struct Attention {
    Vectors q, k, v;
    int64_t batch;
    float scale;
    bool causal;  // Aligned to the last key.
    const Bias* bias;
    Sgemm multiply;
    float* out;  // (batch, queries, heads, width of v)
    float* lse;  // (batch, heads, queries), natural log
};

void attend(const Attention& attention);

}  // namespace rave
