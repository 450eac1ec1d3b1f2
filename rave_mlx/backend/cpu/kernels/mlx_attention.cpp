// Attention of many queries as one operation of MLX, computed by `attention.cpp`.
#include <memory>

#include "attention.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "python_array.h"

namespace mx = mlx::core;

namespace {
rave::Sgemm multiply = nullptr;
rave::PythonArrays python;

// Numbers of an array one after the other, where it is something that a BLAS does not take: numbers of a row that are no
// neighbours, or rows that overlap.
std::vector<float> packed(const mx::array& x) {
    std::vector<float> made;
    if ((x.shape(3) == 1 || x.strides(3) == 1) && x.strides(2) >= x.shape(3)) return made;
    made.reserve(x.size());
    for (int64_t b = 0; b < x.shape(0); ++b)
        for (int64_t h = 0; h < x.shape(1); ++h)
            for (int64_t i = 0; i < x.shape(2); ++i) {
                const float* row = x.data<float>() + b * x.strides(0) + h * x.strides(1) + i * x.strides(2);
                for (int64_t n = 0; n < x.shape(3); ++n) made.push_back(row[n * x.strides(3)]);
            }
    return made;
}

struct Input {
    std::vector<float> copied;
    rave::Vectors vectors;
    explicit Input(const mx::array& x) : copied(packed(x)) {
        int64_t heads = x.shape(1), count = x.shape(2), width = x.shape(3);
        vectors = {x.data<float>(), x.strides(0), x.strides(1), x.strides(2), heads, count, width};
        if (!copied.empty()) vectors = {copied.data(), heads * count * width, count * width, width, heads, count, width};
    }
};

struct Form {
    float scale, limit;
    bool causal;
    int64_t first, last;
    std::vector<int> places;
};

// Inputs: q (B, H, Lq, d), k (B, G, Lk, d), v (B, G, Lk, dv), and features of queries and keys where there is a bias.
// Outputs: (B, Lq, H, dv) and the logarithm of the sums (B, H, Lq).
class Attend : public mx::Primitive {
  public:
    Attend(mx::Stream stream, Form form) : Primitive(stream), form_(std::move(form)) {}

    void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
        for (auto& one : out) one.set_data(mx::allocator::malloc(one.nbytes()));
        std::vector<mx::array> arrays;
        for (const mx::array& x : in) arrays.push_back(mx::array::unsafe_weak_copy(x));
        mx::cpu::get_command_encoder(stream()).dispatch([form = form_, arrays = std::move(arrays),
                                                         y = mx::array::unsafe_weak_copy(out[0]),
                                                         lse = mx::array::unsafe_weak_copy(out[1])]() mutable {
            std::vector<Input> in(arrays.begin(), arrays.end());
            rave::Attention call{in[0].vectors, in[1].vectors, in[2].vectors, arrays[0].shape(0), form.scale,
                                 form.causal, nullptr, multiply, y.data<float>(), lse.data<float>()};
            rave::Bias bias;
            if (in.size() > 3) {
                bias = {in[3].vectors, in[4].vectors, form.first, form.last, form.limit, form.places.data()};
                call.bias = &bias;
            }
            rave::attend(call);
        });
    }
    void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
        throw std::runtime_error("this attention runs on a CPU only");
    }
    const char* name() const override { return "BlockAttention"; }

  private:
    Form form_;
};
}  // namespace

extern "C" {

// Whether arrays are found in Python objects (`shape` of `ndim` numbers is that of the array in `object`); `sgemm`: a
// CBLAS function.
int rave_attention_set_up(void* sgemm, int header, void* object, int ndim, const int* shape) {
    multiply = reinterpret_cast<rave::Sgemm>(sgemm);
    python.header = header;
    return python.finds(object, ndim, shape);
}

// Put attention and the logarithm of its sums into the Python objects `out` and `lse`. `objects`: q, k, v, and features
// of queries and keys, or null. `numbers`: whether it is causal, first and last key of the bias, then for each head of the
// keys its place among those with a bias or -1. `reals`: factor of the scores, bound of the bias or 0.
void rave_attend(void** objects, const int* numbers, const float* reals, void* out, void* lse) {
    std::vector<mx::array> in;
    for (int i = 0; i < (objects[3] ? 5 : 3); ++i) in.push_back(python.at(objects[i]));
    const mx::array &q = in[0], &k = in[1], &v = in[2];
    Form form{reals[0], reals[1], numbers[0] != 0, numbers[1], numbers[2], {numbers + 3, numbers + 3 + k.shape(1)}};
    auto primitive = std::make_shared<Attend>(mx::default_stream(mx::Device(mx::Device::cpu)), std::move(form));
    auto made = mx::array::make_arrays({{q.shape(0), q.shape(2), q.shape(1), v.shape(3)}, {q.shape(0), q.shape(1), q.shape(2)}},
                                       {mx::float32, mx::float32}, primitive, in);
    python.at(out) = std::move(made[0]);
    python.at(lse) = std::move(made[1]);
}
}
