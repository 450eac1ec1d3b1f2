#include "layer.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace rave {
namespace {

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
    // Four sums that do not wait for each other.
    double squares[4] = {0, 0, 0, 0};
    int64_t i = 0;
    for (; i + 4 <= width; i += 4)
        for (int j = 0; j < 4; ++j) squares[j] += (double)x[i + j] * x[i + j];
    for (; i < width; ++i) squares[0] += (double)x[i] * x[i];
    double mean = (squares[0] + squares[1] + squares[2] + squares[3]) / (double)width;
    float share = (float)(1.0 / std::sqrt(mean + eps));
    for (i = 0; i < width; ++i) out[i] = x[i] * share * weight[i];
}

Output output(const Matrix& m, float* y) { return {m.w, m.count, m.bias, y}; }

// Rotate a head in place: number i with number i + width / 2.
void rotate(float* head, const float* cosine, const float* sine, int width) {
    for (int i = 0, half = width / 2; i < half; ++i) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

struct Heads {
    const float *q, *k, *v;
    const Store &keys, &values;
    int64_t count;
    int width, ratio;
    float* out;
};

void attend_head(const void* context, int64_t head) {
    const Heads& h = *static_cast<const Heads*>(context);
    static thread_local std::vector<float> scores;
    if ((int64_t)scores.size() <= h.count) scores.resize((size_t)h.count + 256);
    int64_t group = head / h.ratio;
    kernels()->attend(h.q + head * h.width, h.keys.data + group * h.keys.head, h.values.data + group * h.values.head,
                      h.count, h.keys.row, h.values.row, h.k + group * h.width, h.v + group * h.width, h.width,
                      scores.data(), h.out + head * h.width);
}

void add_row(const Store& store, int64_t row, const float* from, int heads, int width) {
    for (int head = 0; head < heads; ++head)
        std::memcpy(store.data + head * store.head + row * store.row, from + head * width, sizeof(float) * (size_t)width);
}

}  // namespace

void layer_step(const Layer& l, float* x, const Store& keys, const Store& values, int64_t count, const float* cosine,
                const float* sine) {
    const Matrix* m = l.matrices;
    int64_t hidden = l.hidden(), inner = m[4].count, q_width = (int64_t)l.heads * l.width;
    int64_t kv_width = (int64_t)l.kv_heads * l.width;
    static thread_local std::vector<float> buffer;
    size_t need = (size_t)(2 * hidden + 2 * q_width + 2 * kv_width + 2 * inner);
    if (buffer.size() < need) buffer.resize(need);
    float *normed = buffer.data(), *added = normed + hidden, *q = added + hidden, *answer = q + q_width;
    float *k = answer + q_width, *v = k + kv_width, *gate = v + kv_width, *up = gate + inner;

    norm(x, l.norms[0], l.eps, hidden, normed);
    Output inputs[] = {output(m[0], q), output(m[1], k), output(m[2], v)};
    packed_outputs(inputs, 3, normed);
    for (int head = 0; head < l.heads + l.kv_heads; ++head) {
        bool query = head < l.heads;
        float* one = query ? q + head * l.width : k + (head - l.heads) * l.width;
        if (l.norms[2]) norm(one, l.norms[query ? 2 : 3], l.head_eps, l.width, one);
        rotate(one, cosine, sine, l.width);
    }
    for (int64_t i = 0; i < q_width; ++i) q[i] *= l.scale;
    add_row(keys, count, k, l.kv_heads, l.width);
    add_row(values, count, v, l.kv_heads, l.width);
    Heads heads{q, k, v, keys, values, count, l.width, l.heads / l.kv_heads, answer};
    each_head(l.heads, count * l.width * 3, &heads, attend_head);
    Output joined = output(m[3], added);
    packed_outputs(&joined, 1, answer);
    for (int64_t i = 0; i < hidden; ++i) x[i] += added[i];

    norm(x, l.norms[1], l.eps, hidden, normed);
    Output halves[] = {output(m[4], gate), output(m[5], up)};
    packed_outputs(halves, 2, normed);
    for (int64_t i = 0; i < inner; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    Output last = output(m[6], added);
    packed_outputs(&last, 1, gate);
    for (int64_t i = 0; i < hidden; ++i) x[i] += added[i];
}

}  // namespace rave
