// Attention of many queries: products of a block of queries with a block of keys by the BLAS, and between them the
// softmax in one pass over scores that are still in the cache (the running maximum and sum of arXiv 2205.14135).
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#define INSIDE static inline __attribute__((always_inline))

namespace rave {
namespace {
constexpr int64_t kQueries = 128, kKeys = 384;  // Of a block; its scores take 128 kB.
constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f, kLowest = -1e30f;
#if defined(__x86_64__)
constexpr int kLanes = 8;  // Of one register: compilers take longer vectors apart clumsily.
#else
constexpr int kLanes = 4;
#endif
enum { kRowMajor = 101, kPlain = 111, kTransposed = 112 };

typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));

INSIDE V load(const float* p) {
    V x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
INSIDE void store(float* p, V x) { std::memcpy(p, &x, sizeof x); }
INSIDE V all(float x) { return V{} + x; }

// 2^x for x <= 0: 1e-7 relative, 0 below -126.5; NaN stays NaN.
INSIDE V power_of_two(V x) {
    x = x < all(-127.0f) ? all(-127.0f) : x;
    V rounded = x + 12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the lowest bits.
    V f = x - (rounded - 12582912.0f);
    I exponent = ((I)rounded - 0x4B400000 + 127) << 23;
    V p = f * 1.546973217e-4f + 1.340043265e-3f;
    p = p * f + 9.618025273e-3f;
    p = p * f + 5.550327152e-2f;
    p = p * f + 2.402265072e-1f;
    p = p * f + 6.931471825e-1f;
    return (p * f + 1.0f) * (V)exponent;
}

// tanh by the fractions of `backend/activations.py`.
INSIDE V tanh_of(V z) {
    z = z < all(-8.25f) ? all(-8.25f) : z;
    z = z > all(8.25f) ? all(8.25f) : z;
    V t = z * z;
    V p = ((((t * 1.474414191e-8f + 2.157285599e-5f) * t + 3.552930662e-3f) * t + 1.342900097e-1f) * t) + 1.0f;
    V q = ((((t * 8.332800689e-7f + 3.380197741e-4f) * t + 2.609413862e-2f) * t + 4.676232636e-1f) * t) + 1.0f;
    return z * p / q;
}

// scores += factor * tanh(x), rows of `count` numbers (a multiple of the lanes is there) kKeys apart.
INSIDE void add_bias_inside(float* scores, const float* x, int64_t rows, int64_t count, float factor) {
    for (int64_t row = 0; row < rows; ++row, scores += kKeys, x += kKeys) {
        int64_t i = 0;
        for (; i + kLanes <= count; i += kLanes) store(scores + i, load(scores + i) + tanh_of(load(x + i)) * factor);
        if (i == count) continue;
        V rest = V{};
        std::memcpy(&rest, x + i, sizeof(float) * (size_t)(count - i));
        rest = tanh_of(rest) * factor;
        for (int64_t j = i; j < count; ++j) scores[j] += rest[j - i];
    }
}

// Rows of scores, `padded` numbers of each (a multiple of the lanes), to weights 2^(score - top); `top`, `total` and the
// answers (rows, width) so far are brought to the new maximum of each row.
INSIDE void soften_inside(float* scores, int64_t rows, int64_t padded, float* top, float* total, float* answers,
                          int64_t width) {
    for (int64_t row = 0; row < rows; ++row, scores += kKeys, answers += width) {
        V most = load(scores);
        for (int64_t i = kLanes; i < padded; i += kLanes) {
            V x = load(scores + i);
            most = most < x ? x : most;
        }
        float highest = top[row];
        for (int j = 0; j < kLanes; ++j) highest = most[j] > highest ? most[j] : highest;
        V sum = V{};
        for (int64_t i = 0; i < padded; i += kLanes) {
            V weight = power_of_two(load(scores + i) - highest);
            store(scores + i, weight);
            sum += weight;
        }
        float added = 0;
        for (int j = 0; j < kLanes; ++j) added += sum[j];
        float kept = std::exp2(top[row] - highest);
        total[row] = total[row] * kept + added;
        top[row] = highest;
        if (kept != 1.0f)
            for (int64_t i = 0; i < width; ++i) answers[i] *= kept;
    }
}

// Both, for one kind of processor.
struct Passes {
    decltype(&add_bias_inside) add_bias;
    decltype(&soften_inside) soften;
};

void plain_add_bias(float* scores, const float* x, int64_t rows, int64_t count, float factor) {
    add_bias_inside(scores, x, rows, count, factor);
}
void plain_soften(float* scores, int64_t rows, int64_t padded, float* top, float* total, float* answers, int64_t width) {
    soften_inside(scores, rows, padded, top, total, answers, width);
}
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void vector_add_bias(float* scores, const float* x, int64_t rows, int64_t count,
                                                         float factor) {
    add_bias_inside(scores, x, rows, count, factor);
}
__attribute__((target("avx2,fma"))) void vector_soften(float* scores, int64_t rows, int64_t padded, float* top,
                                                       float* total, float* answers, int64_t width) {
    soften_inside(scores, rows, padded, top, total, answers, width);
}
#endif

const Passes& passes() {
#if defined(__x86_64__)
    static const bool has_vectors = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const Passes vector{vector_add_bias, vector_soften};
    if (has_vectors) return vector;
#endif
    static const Passes plain{plain_add_bias, plain_soften};
    return plain;
}

struct Scratch {
    std::vector<float> floats;
    float* take(size_t count) {
        if (floats.size() < count) floats.resize(count);
        return floats.data();
    }
};

// Vectors of a block of queries, for every head that shares keys, one after the other and times `factor`.
void gather(const Vectors& from, int64_t batch, int64_t head, int64_t ratio, int64_t start, int64_t rows, float factor,
            float* to) {
    for (int64_t r = 0; r < ratio; ++r)
        for (int64_t i = 0; i < rows; ++i, to += from.width) {
            const float* one = from.at(batch, head + r, start + i);
            for (int64_t n = 0; n < from.width; ++n) to[n] = one[n] * factor;
        }
}

// Queries start <= i < start + rows of the heads that share head `group` of the keys.
void block(const Attention& a, int64_t batch, int64_t group, int64_t start, int64_t rows) {
    const int64_t ratio = a.q.heads / a.k.heads, many = ratio * rows, width = a.v.width;
    const int place = a.bias ? a.bias->places[group] : -1;
    const int64_t rank = place < 0 ? 0 : a.bias->queries.width;
    const bool bounded = place >= 0 && a.bias->limit > 0;
    static thread_local Scratch scratch;
    float* scores = scratch.take((size_t)(many * (2 * kKeys + a.q.width + rank + width + 2)));
    float *x = scores + many * kKeys, *q = x + many * kKeys, *u = q + many * a.q.width, *answers = u + many * rank;
    float *top = answers + many * width, *total = top + many;
    gather(a.q, batch, group * ratio, ratio, start, rows, a.scale * kLog2E, q);
    if (rank) gather(a.bias->queries, batch, place * ratio, ratio, start, rows, bounded ? 1 / a.bias->limit : kLog2E, u);
    std::fill(top, top + many, kLowest);
    std::fill(total, total + many, 0.0f);
    std::fill(answers, answers + many * width, 0.0f);
    const int64_t before = a.k.count - a.q.count + start, seen = a.causal ? before + rows : a.k.count;
    for (int64_t first = 0; first < seen; first += kKeys) {
        const int64_t count = std::min(kKeys, seen - first), padded = (count + kLanes - 1) / kLanes * kLanes;
        a.multiply(kRowMajor, kPlain, kTransposed, many, count, a.q.width, 1, q, a.q.width, a.k.at(batch, group, first),
                   a.k.step, 0, scores, kKeys);
        const int64_t low = rank ? std::max(first, a.bias->first) : 0;
        const int64_t high = rank ? std::min(first + count, a.bias->last) : 0;
        if (low < high) {
            float* place_of = bounded ? x : scores + (low - first);
            a.multiply(kRowMajor, kPlain, kTransposed, many, high - low, rank, 1, u, rank, a.bias->keys.at(batch, place, low),
                       a.bias->keys.step, bounded ? 0 : 1, place_of, kKeys);
            if (bounded) passes().add_bias(scores + (low - first), x, many, high - low, a.bias->limit * kLog2E);
        }
        for (int64_t row = 0; row < many; ++row) {
            int64_t open = a.causal ? std::clamp<int64_t>(before + row % rows + 1 - first, 0, count) : count;
            std::fill(scores + row * kKeys + open, scores + row * kKeys + padded, -INFINITY);
        }
        passes().soften(scores, many, padded, top, total, answers, width);
        a.multiply(kRowMajor, kPlain, kPlain, many, width, count, 1, scores, kKeys, a.v.at(batch, group, first), a.v.step,
                   1, answers, width);
    }
    for (int64_t row = 0; row < many; ++row) {
        const int64_t head = group * ratio + row / rows, i = start + row % rows;
        float* out = a.out + ((batch * a.q.count + i) * a.q.heads + head) * width;
        for (int64_t n = 0; n < width; ++n) out[n] = answers[row * width + n] / total[row];
        a.lse[(batch * a.q.heads + head) * a.q.count + i] = (top[row] + std::log2(total[row])) * kLn2;
    }
}
}  // namespace

void attend(const Attention& a) {
    const int64_t ratio = a.q.heads / a.k.heads, rows = std::max<int64_t>(16, kQueries / ratio);
    struct Work {
        const Attention& call;
        int64_t rows, blocks;
    } work{a, rows, (a.q.count + rows - 1) / rows};
    each_head(a.batch * a.k.heads * work.blocks, rows * ratio * a.k.count * (a.k.width + a.v.width), &work,
              [](const void* context, int64_t part) {
                  const Work& w = *static_cast<const Work*>(context);
                  // The last blocks first: where keys are seen up to the query's own, they take longest.
                  int64_t start = (w.blocks - 1 - part % w.blocks) * w.rows, head = part / w.blocks;
                  block(w.call, head / w.call.k.heads, head % w.call.k.heads, start,
                        std::min(w.rows, w.call.q.count - start));
              });
}

}  // namespace rave
