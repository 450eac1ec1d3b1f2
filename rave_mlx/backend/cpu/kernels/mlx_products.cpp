// MLX's products of packed and of half-precision weights on a CPU, computed by the kernels of this folder.
//
// MLX computes an operation through a virtual function of its class, `eval_cpu`. The functions here stand in the place
// of those of QuantizedMatmul and Matmul; what they do not cover they hand on to MLX's own.
#include <cstring>

#include "matrix.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "mlx_products.h"

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using Eval = void (*)(mx::Primitive*, const Arrays&, Arrays&);

namespace {
Eval own_quantized = nullptr, own_matmul = nullptr;

bool is_float(const mx::array& x) {
    return x.dtype() == mx::float32 || x.dtype() == mx::float16 || x.dtype() == mx::bfloat16;
}

rave::Type type_of(const mx::array& x) {
    return x.dtype() == mx::float32 ? rave::Type::f32 : x.dtype() == mx::float16 ? rave::Type::f16 : rave::Type::bf16;
}

const void* bytes(const mx::array& x) { return x.data<char>(); }

// Whether all rows along the last axis lie at one distance from each other.
bool has_even_rows(const mx::array& x) {
    for (int axis = 0; axis + 2 < x.ndim(); ++axis)
        if (x.shape(axis) != 1 && x.strides(axis) != x.shape(axis + 1) * x.strides(axis + 1)) return false;
    return true;
}

rave::Operand rows_of(const mx::array& x) {
    int64_t width = x.shape(-1);
    // An axis of length one may have any stride; the distance of rows is that of the last longer one.
    int64_t step = width;
    for (int axis = x.ndim() - 2; axis >= 0; --axis)
        if (x.shape(axis) != 1) {
            step = x.strides(axis);
            break;
        }
    return {bytes(x), type_of(x), (int64_t)x.size() / width, width, step, width == 1 ? 1 : x.strides(-1)};
}

template <class T>
void narrow(const std::vector<float>& from, mx::array& to) {
    T* out = to.data<T>();
    for (size_t i = 0; i < from.size(); ++i) out[i] = static_cast<T>(from[i]);
}

// Let `product(float*)` write into an array of any of the three types.
template <class Product>
void write(mx::array& out, const Product& product) {
    if (out.dtype() == mx::float32) return product(out.data<float>());
    std::vector<float> wide(out.size());
    product(wide.data());
    if (out.dtype() == mx::float16) narrow<mx::float16_t>(wide, out);
    else narrow<mx::bfloat16_t>(wide, out);
}

bool covers(const Arrays& in, int group, int bits, mx::QuantizationMode mode, bool transpose) {
    if (mode != mx::QuantizationMode::Affine || (bits != 4 && bits != 8) || in.size() != 4) return false;
    if ((group != 32 && group != 64 && group != 128) || in[1].ndim() != 2 || in[0].size() == 0) return false;
    if (!is_float(in[0]) || !is_float(in[2]) || in[2].dtype() != in[3].dtype()) return false;
    if (!has_even_rows(in[0]) || !(transpose || rave::has_blas())) return false;
    for (int i = 1; i < 4; ++i)
        if (in[i].shape(-1) != 1 && in[i].strides(-1) != 1) return false;
    return true;
}

// Queue x = in[0] times the packed matrix in[1], in[2], in[3], or its transpose.
void dispatch_packed(mx::Stream stream, const Arrays& in, mx::array& out, int group, int bits, bool transpose) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream)
        .dispatch([x = mx::array::unsafe_weak_copy(in[0]), w = mx::array::unsafe_weak_copy(in[1]),
                   scales = mx::array::unsafe_weak_copy(in[2]), biases = mx::array::unsafe_weak_copy(in[3]),
                   out = mx::array::unsafe_weak_copy(out), group = group, bits = bits, transpose = transpose]() mutable {
            rave::Packed packed{w.data<uint32_t>(), bytes(scales), bytes(biases), type_of(scales), bits, group,
                                (int64_t)w.shape(1) * 32 / bits, w.strides(0), scales.strides(0), biases.strides(0)};
            write(out, [&](float* y) {
                if (transpose) rave::packed_product(packed, w.shape(0), rows_of(x), y);
                else rave::packed_product_plain(packed, w.shape(0), rows_of(x), y);
            });
        });
}

void quantized(mx::Primitive* self, const Arrays& in, Arrays& outs) {
    auto [group, bits, mode, transpose] = static_cast<mx::QuantizedMatmul*>(self)->state();
    if (!covers(in, group, bits, mode, transpose)) return own_quantized(self, in, outs);
    dispatch_packed(self->stream(), in, outs[0], group, bits, transpose);
}

class MixedProduct : public mx::Primitive {
  public:
    MixedProduct(mx::Stream stream, int group, int bits) : Primitive(stream), group_(group), bits_(bits) {}

    void eval_cpu(const Arrays& in, Arrays& outs) override {
        dispatch_packed(stream(), in, outs[0], group_, bits_, true);
    }
    void eval_gpu(const Arrays&, Arrays&) override {
        throw std::runtime_error("products of packed weights with scales of another type run on a CPU only");
    }
    Arrays vjp(const Arrays& in, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays&) override {
        if (arguments.size() != 1 || arguments[0] != 0)
            throw std::runtime_error("packed weights have no gradients");
        return {mx::quantized_matmul(cotangents[0], in[1], in[2], in[3], false, group_, bits_, "affine", stream())};
    }
    const char* name() const override { return "MixedProduct"; }

  private:
    int group_, bits_;
};

rave::Operand matrix_of(const mx::array& x, size_t batch, bool transposed) {
    int64_t offset = 0;
    for (int axis = x.ndim() - 3; axis >= 0; --axis) {
        offset += (int64_t)(batch % (size_t)x.shape(axis)) * x.strides(axis);
        batch /= (size_t)x.shape(axis);
    }
    int rows = transposed ? -1 : -2, columns = transposed ? -2 : -1;
    // All types that come here but float32 take two bytes.
    const char* data = x.data<char>() + offset * (x.dtype() == mx::float32 ? 4 : 2);
    return {data, type_of(x), x.shape(rows), x.shape(columns), x.strides(rows),
            x.shape(columns) == 1 ? 1 : x.strides(columns)};
}

void half(mx::Primitive* self, const Arrays& in, Arrays& outs) {
    const mx::array &a = in[0], &b = in[1];
    bool halves = a.dtype() == b.dtype() && (a.dtype() == mx::float16 || a.dtype() == mx::bfloat16);
    bool empty = a.size() == 0 || b.size() == 0;
    if (!halves || empty || !rave::has_blas() || a.ndim() != b.ndim() || a.ndim() < 2) return own_matmul(self, in, outs);
    mx::array& out = outs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(self->stream())
        .dispatch([a = mx::array::unsafe_weak_copy(a), b = mx::array::unsafe_weak_copy(b),
                   out = mx::array::unsafe_weak_copy(out)]() mutable {
            size_t one = (size_t)out.shape(-1) * (size_t)out.shape(-2), batches = out.size() / one;
            write(out, [&](float* y) {
                for (size_t i = 0; i < batches; ++i)
                    rave::plain_product(matrix_of(a, i, false), matrix_of(b, i, true), y + i * one);
            });
        });
}

// The place of `eval_cpu` among the virtual functions of a primitive's class, as the compiler numbers them.
void** eval_slot(mx::Primitive& primitive) {
    void (mx::Primitive::*member)(const Arrays&, Arrays&) = &mx::Primitive::eval_cpu;
    uintptr_t offset;
    std::memcpy(&offset, &member, sizeof offset);
    char* table = *reinterpret_cast<char**>(&primitive);
    return reinterpret_cast<void**>(table + (offset & ~uintptr_t(1)));
}

void** slot_of(const mx::array& result, const char* name) {
    if (!result.has_primitive() || std::strcmp(result.primitive().name(), name) != 0) return nullptr;
    return eval_slot(result.primitive());
}
}  // namespace

mx::array rave::mixed_product(const mx::array& x, const mx::array& codes, const mx::array& scales, const mx::array& biases,
                              int bits, int group) {
    mx::Stream stream = mx::default_stream(mx::Device(mx::Device::cpu));
    mx::Shape shape = x.shape();
    size_t batches = 1;
    for (int axis = 0; axis + 2 < x.ndim(); ++axis) batches *= (size_t)shape[axis];
    shape.back() = codes.shape(0);
    // Rows of one batch lie at one distance whatever the strides.
    return mx::array(shape, mx::float32, std::make_shared<MixedProduct>(stream, group, bits),
                     {batches == 1 ? x : mx::contiguous(x, false, stream), codes, scales, biases});
}

extern "C" {

// Choose kernels by name ("" for the best), and give them a BLAS (may be null). Returns the kernels' name, or null.
const char* rave_set_up(const char* wanted, int threads, void* sgemm) {
    const rave::Kernels* all[] = {rave::wide_vector_kernels(), rave::vector_kernels(), rave::portable_kernels()};
    for (const rave::Kernels* kernels : all)
        if (kernels && (!*wanted || !std::strcmp(wanted, kernels->name))) {
            rave::set_up(kernels, threads, reinterpret_cast<rave::Sgemm>(sgemm));
            return kernels->name;
        }
    return nullptr;
}

// Addresses for four words: where QuantizedMatmul's function stands and ours, then those of Matmul. Nonzero: not found.
int rave_slots(void** out) {
    try {
        mx::StreamOrDevice cpu = mx::Device(mx::Device::cpu);
        mx::array x = mx::zeros({1, 32}, mx::float32, cpu), w = mx::zeros({1, 4}, mx::uint32, cpu);
        mx::array scales = mx::zeros({1, 1}, mx::float32, cpu);
        mx::array packed = mx::quantized_matmul(x, w, scales, scales, true, 32, 4, "affine", cpu);
        void **first = slot_of(packed, "QuantizedMatmul"), **second = slot_of(mx::matmul(x, mx::transpose(x, cpu), cpu), "Matmul");
        if (!first || !second) return 1;
        own_quantized = reinterpret_cast<Eval>(*first);
        own_matmul = reinterpret_cast<Eval>(*second);
        out[0] = first;
        out[1] = reinterpret_cast<void*>(&quantized);
        out[2] = second;
        out[3] = reinterpret_cast<void*>(&half);
        return 0;
    } catch (...) {
        return 2;
    }
}
}
