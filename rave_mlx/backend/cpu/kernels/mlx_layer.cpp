// A whole decoder layer for one written token as one operation of MLX: what a small model spends most of a token on are
// the some twenty operations a layer, each built, scheduled and given memory, not the products themselves.
#include <cmath>
#include <cstring>

#include "matrix.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace {

struct Matrix {
    mx::array codes, scales, biases;
    std::optional<mx::array> bias;
    int bits, group;
};

struct Layer {
    std::vector<mx::array> norms;  // Before attention and before the MLP; then of queries and of keys, if they have some.
    std::vector<Matrix> matrices;  // Of queries, keys, values, output, gate, up, down.
    float eps, head_eps, scale;
    int heads, kv_heads, width;
};

const float* floats(const mx::array& x) { return x.data<float>(); }

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += (double)x[i] * x[i];
    float share = (float)(1.0 / std::sqrt(squares / (double)width + eps));
    for (int64_t i = 0; i < width; ++i) out[i] = x[i] * share * weight[i];
}

rave::Output output(const Matrix& m, float* y) {
    rave::Type type = m.scales.dtype() == mx::float32 ? rave::Type::f32
                      : m.scales.dtype() == mx::float16 ? rave::Type::f16 : rave::Type::bf16;
    rave::Packed w{m.codes.data<uint32_t>(), m.scales.data<char>(), m.biases.data<char>(), type, m.bits, m.group,
                   (int64_t)m.codes.shape(1) * 32 / m.bits, m.codes.strides(0), m.scales.strides(0), m.biases.strides(0)};
    return {w, m.codes.shape(0), m.bias ? floats(*m.bias) : nullptr, y};
}

// Rotate a head in place: number i with number i + width / 2.
void rotate(float* head, const float* cosine, const float* sine, int width) {
    for (int i = 0, half = width / 2; i < half; ++i) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

struct Heads {
    const float *q, *k, *v, *keys, *values;
    int64_t count, key_step, value_step, key_head, value_head;
    int width, ratio;
    float* out;
};

void attend_head(const void* context, int64_t head) {
    const Heads& h = *static_cast<const Heads*>(context);
    static thread_local std::vector<float> scores;
    if ((int64_t)scores.size() <= h.count) scores.resize((size_t)h.count + 256);
    int64_t group = head / h.ratio;
    rave::kernels()->attend(h.q + head * h.width, h.keys + group * h.key_head, h.values + group * h.value_head, h.count,
                            h.key_step, h.value_step, h.k + group * h.width, h.v + group * h.width, h.width,
                            scores.data(), h.out + head * h.width);
}

void compute(const Layer& l, const float* x, const mx::array& keys, const mx::array& values, int64_t count,
             const float* cosine, const float* sine, float* out, float* k, float* v) {
    const auto& m = l.matrices;
    int64_t hidden = m[0].codes.shape(1) * 32 / m[0].bits, inner = m[4].codes.shape(0);
    int64_t q_width = l.heads * l.width;
    static thread_local std::vector<float> buffer;
    size_t need = (size_t)(2 * hidden + 2 * q_width + 2 * inner);
    if (buffer.size() < need) buffer.resize(need);
    float *normed = buffer.data(), *stream = normed + hidden, *q = stream + hidden, *answer = q + q_width;
    float *gate = answer + q_width, *up = gate + inner;

    norm(x, floats(l.norms[0]), l.eps, hidden, normed);
    rave::Output inputs[] = {output(m[0], q), output(m[1], k), output(m[2], v)};
    rave::packed_outputs(inputs, 3, normed);
    for (int head = 0; head < l.heads + l.kv_heads; ++head) {
        bool query = head < l.heads;
        float* one = query ? q + head * l.width : k + (head - l.heads) * l.width;
        if (l.norms.size() > 2) norm(one, floats(l.norms[query ? 2 : 3]), l.head_eps, l.width, one);
        rotate(one, cosine, sine, l.width);
    }
    for (int64_t i = 0; i < q_width; ++i) q[i] *= l.scale;
    Heads heads{q, k, v, floats(keys), floats(values), count, keys.strides(2), values.strides(2), keys.strides(1),
                values.strides(1), l.width, l.heads / l.kv_heads, answer};
    rave::each_head(l.heads, count * l.width * 3, &heads, attend_head);
    rave::Output joined = output(m[3], stream);
    rave::packed_outputs(&joined, 1, answer);
    for (int64_t i = 0; i < hidden; ++i) stream[i] += x[i];

    norm(stream, floats(l.norms[1]), l.eps, hidden, normed);
    rave::Output halves[] = {output(m[4], gate), output(m[5], up)};
    rave::packed_outputs(halves, 2, normed);
    for (int64_t i = 0; i < inner; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    rave::Output last = output(m[6], out);
    rave::packed_outputs(&last, 1, gate);
    for (int64_t i = 0; i < hidden; ++i) out[i] += stream[i];
}

// Inputs: x (1, 1, hidden), keys and values (1, G, room, d) of which `count` rows count, cos and sin (d / 2 numbers).
// Outputs: the same for the next layer, and the new key and value (1, G, 1, d).
class LayerStep : public mx::Primitive {
  public:
    LayerStep(mx::Stream stream, std::shared_ptr<Layer> layer, int64_t count)
        : Primitive(stream), layer_(std::move(layer)), count_(count) {}

    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        for (auto& one : out) one.set_data(mx::allocator::malloc(one.nbytes()));
        auto weak = [](const mx::array& x) { return mx::array::unsafe_weak_copy(x); };
        mx::cpu::get_command_encoder(stream()).dispatch(
            [layer = layer_, count = count_, x = weak(in[0]), keys = weak(in[1]), values = weak(in[2]),
             cosine = weak(in[3]), sine = weak(in[4]), y = weak(out[0]), k = weak(out[1]), v = weak(out[2])]() mutable {
                compute(*layer, floats(x), keys, values, count, floats(cosine), floats(sine), y.data<float>(),
                        k.data<float>(), v.data<float>());
            });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("a layer's step runs on a CPU only");
    }
    const char* name() const override { return "LayerStep"; }

  private:
    std::shared_ptr<Layer> layer_;
    int64_t count_;
};

int header = 16;  // Bytes of a Python object before what nanobind puts there.

// The array in a Python object: nanobind keeps an offset, then flags, of which the third says whether the array is there
// or its address.
mx::array& array_in(void* object) {
    char* p = static_cast<char*>(object);
    int32_t offset;
    uint32_t flags;
    std::memcpy(&offset, p + header, 4);
    std::memcpy(&flags, p + header + 4, 4);
    void* place = p + offset;
    return *static_cast<mx::array*>(flags & 4 ? place : *static_cast<void**>(place));
}
}  // namespace

extern "C" {

// Whether arrays are found in Python objects: `shape` of `ndim` numbers is that of the array in `object`.
int rave_finds_array(int object_header, void* object, int ndim, const int* shape) {
    header = object_header;
    const mx::array& x = array_in(object);
    if (x.ndim() != (size_t)ndim) return 0;
    for (int i = 0; i < ndim; ++i)
        if (x.shape(i) != shape[i]) return 0;
    return 1;
}

// A layer. `objects`: two norms, norms of queries and keys or null, then for each of seven matrices codes, scales, biases
// and a bias or null. `packing`: bits and group of each matrix. `numbers`: heads, heads of keys, width of a head.
void* rave_layer(void** objects, const int* packing, const int* numbers, const float* reals) {
    auto layer = std::make_shared<Layer>();
    for (int i = 0; i < 4; ++i)
        if (objects[i]) layer->norms.push_back(array_in(objects[i]));
    for (int i = 0; i < 7; ++i) {
        void** part = objects + 4 + 4 * i;
        std::optional<mx::array> bias;
        if (part[3]) bias = array_in(part[3]);
        layer->matrices.push_back(
            {array_in(part[0]), array_in(part[1]), array_in(part[2]), bias, packing[2 * i], packing[2 * i + 1]});
    }
    layer->heads = numbers[0], layer->kv_heads = numbers[1], layer->width = numbers[2];
    layer->eps = reals[0], layer->head_eps = reals[1], layer->scale = reals[2];
    return new std::shared_ptr<Layer>(layer);
}

void rave_forget_layer(void* layer) { delete static_cast<std::shared_ptr<Layer>*>(layer); }

// Put what a layer makes of a token into the Python objects y, new_key and new_value.
void rave_layer_step(void* layer, int64_t count, void* x, void* keys, void* values, void* cosine, void* sine, void* y,
                     void* new_key, void* new_value) {
    auto& one = *static_cast<std::shared_ptr<Layer>*>(layer);
    mx::array& input = array_in(x);
    mx::Shape head{1, one->kv_heads, 1, one->width};
    auto primitive = std::make_shared<LayerStep>(mx::default_stream(mx::Device(mx::Device::cpu)), one, count);
    auto made = mx::array::make_arrays(
        {input.shape(), head, head}, {mx::float32, mx::float32, mx::float32}, primitive,
        {input, array_in(keys), array_in(values), array_in(cosine), array_in(sine)});
    array_in(y) = std::move(made[0]);
    array_in(new_key) = std::move(made[1]);
    array_in(new_value) = std::move(made[2]);
}
}
