// Decoder layers, one after the other, for one written token as one operation of MLX: what a small model spends most of a
// token on are the some twenty operations a layer, each built, scheduled and given memory, not the products themselves.
#include <atomic>
#include <cstring>
#include <mutex>

#include "layer.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "mlx_products.h"
#include "python_array.h"

namespace mx = mlx::core;

namespace {
using Buffer = const mx::allocator::Data*;

// A token whose layers have been queued: the buffers of its keys and values, which MLX holds until it has been computed.
struct Queued {
    std::vector<Buffer> held;
    std::atomic<bool> computed{false};
};

struct Layers {
    std::vector<rave::Layer> layers;
    std::vector<mx::array> arrays;  // Whose memory the layers point into.
    std::mutex mutex;
    std::shared_ptr<Queued> latest;
};

static_assert(sizeof(mx::array) == sizeof(std::shared_ptr<void>), "an array is a pointer to what describes it");

// Handles of an array, its copies in a graph included; MLX tells only whether there is one, and one of the buffer.
long handles(const mx::array& x) { return reinterpret_cast<const std::shared_ptr<void>&>(x).use_count(); }

// Whether nothing but this operation and the one queued before can see a buffer, which may then be written to: in the
// order of the queue that one is over by then.
bool is_ours(const mx::array& x, const Queued* before, size_t index) {
    if (handles(x) != 1 || !x.data_shared_ptr()->is_owned()) return false;
    long uses = x.data_shared_ptr().use_count();
    if (uses == 1) return true;
    // Asked for in this order: it was one of the two uses if it is not computed even now.
    return uses == 2 && before && before->held[index] == x.data_shared_ptr().get() && !before->computed.load();
}

rave::Store store(mx::array& x) { return {x.data<float>(), x.strides(1), x.strides(2)}; }

// The first `count` rows of (1, G, room, d), whatever its strides, into a new buffer.
void copy_rows(const mx::array& from, mx::array& to, int64_t count) {
    const float* source = from.data<float>();
    float* target = to.data<float>();
    std::memset(target, 0, to.nbytes());
    for (int head = 0; head < from.shape(1); ++head)
        for (int64_t row = 0; row < count; ++row)
            for (int i = 0; i < from.shape(3); ++i)
                target[head * to.strides(1) + row * to.strides(2) + i] =
                    source[head * from.strides(1) + row * from.strides(2) + i * from.strides(3)];
}

rave::Matrix matrix(const mx::array& codes, const mx::array& scales, const mx::array& biases, const float* bias, int bits,
                    int group) {
    rave::Type type = scales.dtype() == mx::float32   ? rave::Type::f32
                      : scales.dtype() == mx::float16 ? rave::Type::f16
                                                      : rave::Type::bf16;
    rave::Packed w{codes.data<uint32_t>(), scales.data<char>(), biases.data<char>(), type, bits, group,
                   (int64_t)codes.shape(1) * 32 / bits, codes.strides(0), scales.strides(0), biases.strides(0)};
    return {w, codes.shape(0), bias};
}

// Inputs: x (1, 1, hidden), cos and sin (d / 2 numbers), then keys and values (1, G, room, d) of every layer, of which
// `count` rows count. Outputs: x after the last layer, and the keys and values with one row more.
class LayersStep : public mx::Primitive {
  public:
    LayersStep(mx::Stream stream, std::shared_ptr<Layers> layers, int64_t count)
        : Primitive(stream), layers_(std::move(layers)), count_(count) {}

    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        std::lock_guard<std::mutex> lock(layers_->mutex);
        auto queued = std::make_shared<Queued>();
        queued->held.resize(out.size());
        // Every output has the inputs; they are only needed in the one that is computed.
        for (auto& one : out)
            if (&one.inputs() != &in && !one.is_tracer()) one.inputs().clear();
        out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
        std::vector<std::pair<mx::array, mx::array>> copied;
        std::vector<mx::array> stores;
        auto weak = [](const mx::array& x) { return mx::array::unsafe_weak_copy(x); };
        for (size_t i = 1; i < out.size(); ++i) {
            const mx::array& from = in[i + 2];
            if (from.strides(3) == 1 && is_ours(from, layers_->latest.get(), i)) {
                out[i].copy_shared_buffer(from);
            } else {
                out[i].set_data(mx::allocator::malloc(out[i].nbytes()));
                copied.emplace_back(weak(from), weak(out[i]));
            }
            // MLX holds those of all outputs but the one that is asked for.
            queued->held[i] = &out[i].inputs() == &in ? nullptr : out[i].data_shared_ptr().get();
            stores.push_back(weak(out[i]));
        }
        layers_->latest = queued;
        mx::cpu::get_command_encoder(stream()).dispatch(
            [layers = layers_, count = count_, queued, x = weak(in[0]), cosine = weak(in[1]), sine = weak(in[2]),
             y = weak(out[0]), copied = std::move(copied), stores = std::move(stores)]() mutable {
                for (auto& [from, to] : copied) copy_rows(from, to, count);
                std::memcpy(y.data<float>(), x.data<float>(), y.nbytes());
                for (size_t i = 0; i < layers->layers.size(); ++i)
                    rave::layer_step(layers->layers[i], y.data<float>(), store(stores[2 * i]), store(stores[2 * i + 1]),
                                     count, cosine.data<float>(), sine.data<float>());
                queued->computed.store(true);
            });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("layers of packed weights run on a CPU only");
    }
    const char* name() const override { return "LayersStep"; }

  private:
    std::shared_ptr<Layers> layers_;
    int64_t count_;
};

// Inputs: codes, scales and biases of a packed matrix, and the number of a row. Output: the row (1, 1, width).
class Embed : public mx::Primitive {
  public:
    Embed(mx::Stream stream, int bits, int group) : Primitive(stream), bits_(bits), group_(group) {}

    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        out[0].set_data(mx::allocator::malloc(out[0].nbytes()));
        auto weak = [](const mx::array& x) { return mx::array::unsafe_weak_copy(x); };
        mx::cpu::get_command_encoder(stream()).dispatch(
            [codes = weak(in[0]), scales = weak(in[1]), biases = weak(in[2]), id = weak(in[3]), y = weak(out[0]),
             bits = bits_, group = group_]() mutable {
                rave::Matrix table = matrix(codes, scales, biases, nullptr, bits, group);
                int64_t row = id.data<int32_t>()[0];
                // As MLX has it: from the end if negative.
                rave::packed_row(table.w, row < 0 ? row + table.count : row, y.data<float>());
            });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("rows of packed weights are read on a CPU only");
    }
    const char* name() const override { return "PackedRow"; }

  private:
    int bits_, group_;
};

rave::PythonArrays python;

mx::array& array_in(void* object) { return python.at(object); }
}  // namespace

extern "C" {

// Whether arrays are found in Python objects: `shape` of `ndim` numbers is that of the array in `object`.
int rave_finds_array(int object_header, void* object, int ndim, const int* shape) {
    python.header = object_header;
    return python.finds(object, ndim, shape);
}

void* rave_layers() { return new std::shared_ptr<Layers>(std::make_shared<Layers>()); }

void rave_forget_layers(void* layers) { delete static_cast<std::shared_ptr<Layers>*>(layers); }

// One more layer, of computed arrays. `objects`: two norms, norms of queries and keys or null, then for each of seven
// matrices codes, scales, biases and a bias or null. `packing`: bits and group of each matrix. `numbers`: heads, heads of
// keys, width of a head. `reals`: what norms add, those of queries and keys too, and the factor of scores.
void rave_add_layer(void* layers, void** objects, const int* packing, const int* numbers, const float* reals) {
    Layers& all = **static_cast<std::shared_ptr<Layers>*>(layers);
    auto kept = [&](void* object) -> const mx::array& { return all.arrays.emplace_back(array_in(object)); };
    auto floats = [&](void* object) { return object ? kept(object).data<float>() : nullptr; };
    rave::Layer layer{};
    for (int i = 0; i < 4; ++i) layer.norms[i] = floats(objects[i]);
    for (int i = 0; i < 7; ++i) {
        void** part = objects + 4 + 4 * i;
        for (int j = 0; j < 3; ++j) kept(part[j]);
        layer.matrices[i] = matrix(array_in(part[0]), array_in(part[1]), array_in(part[2]), floats(part[3]),
                                   packing[2 * i], packing[2 * i + 1]);
    }
    layer.heads = numbers[0], layer.kv_heads = numbers[1], layer.width = numbers[2];
    layer.eps = reals[0], layer.head_eps = reals[1], layer.scale = reals[2];
    all.layers.push_back(layer);
}

// Put what the layers make of a token x into the Python object y, and into those of keys and values (`stores`, two a
// layer) what they are with the token's.
void rave_layers_step(void* layers, int64_t count, void* x, void* cosine, void* sine, void** stores, void* y) {
    auto& all = *static_cast<std::shared_ptr<Layers>*>(layers);
    size_t number = 2 * all->layers.size();
    auto primitive = std::make_shared<LayersStep>(mx::default_stream(mx::Device(mx::Device::cpu)), all, count);
    std::vector<mx::array> inputs{array_in(x), array_in(cosine), array_in(sine)};
    std::vector<mx::Shape> shapes{inputs[0].shape()};
    for (size_t i = 0; i < number; ++i) {
        inputs.push_back(array_in(stores[i]));
        shapes.push_back(inputs.back().shape());
    }
    auto made = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(number + 1, mx::float32), primitive, inputs);
    array_in(y) = made[0];
    for (size_t i = 0; i < number; ++i) array_in(stores[i]) = made[i + 1];
}

// Put x (..., width) times the transpose of a packed matrix into the Python object y.
void rave_product(void* x, void* codes, void* scales, void* biases, int bits, int group, void* y) {
    array_in(y) = rave::mixed_product(array_in(x), array_in(codes), array_in(scales), array_in(biases), bits, group);
}

// Put a row of a packed matrix into the Python object y; `id`: an array with its number.
void rave_embed(void* codes, void* scales, void* biases, int bits, int group, void* id, void* y) {
    const mx::array& words = array_in(codes);
    auto primitive = std::make_shared<Embed>(mx::default_stream(mx::Device(mx::Device::cpu)), bits, group);
    std::vector<mx::array> inputs{words, array_in(scales), array_in(biases), array_in(id)};
    array_in(y) = mx::array({1, 1, words.shape(1) * 32 / bits}, mx::float32, primitive, inputs);
}
}
