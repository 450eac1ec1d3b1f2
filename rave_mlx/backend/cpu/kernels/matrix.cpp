#include "matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"

namespace rave {
namespace {
enum { kRowMajor = 101, kNoTrans = 111, kTrans = 112 };
constexpr int64_t kFew = 8;               // Rows up to which the weights are read as they are.
constexpr int64_t kAlone = 1 << 16;       // Multiplications below which waking a thread costs more than it saves.
constexpr int64_t kBlock = 1 << 18;       // Floats of an expanded block: each thread that computes has one.
const Kernels* chosen = nullptr;
Sgemm gemm = nullptr;
Pool* pool = nullptr;
int workers = 1;

// A buffer of this thread, kept for the next product; `slot` tells those apart that are used at the same time.
float* scratch(int slot, int64_t count) {
    static thread_local std::vector<float> buffers[4];
    if ((int64_t)buffers[slot].size() < count) buffers[slot].resize((size_t)count);
    return buffers[slot].data();
}

int64_t grain(int64_t count, int64_t cost) {
    if (count * cost < kAlone) return count;
    int64_t pieces = std::min<int64_t>(workers * 4, std::max<int64_t>(workers, count * cost / (kAlone / 2)));
    return std::max<int64_t>(4, (count + pieces - 1) / pieces + 3 & ~int64_t(3));
}

// One row in float32.
void read_row(const Operand& x, int64_t row, float* to) {
    int64_t at = row * x.row_step;
    if (x.type == Type::f32) {
        const float* from = (const float*)x.data + at;
        if (x.step == 1) std::memcpy(to, from, sizeof(float) * (size_t)x.width);
        else for (int64_t i = 0; i < x.width; ++i) to[i] = from[i * x.step];
    } else {
        const uint16_t* from = (const uint16_t*)x.data + at;
        if (x.step == 1) chosen->widen(from, x.type, x.width, to);
        else for (int64_t i = 0; i < x.width; ++i) chosen->widen(from + i * x.step, x.type, 1, to + i);
    }
}

// The operand as (rows, width) of float32, in place if it is that already.
const float* as_float(const Operand& x, int slot) {
    if (x.type == Type::f32 && x.step == 1 && (x.row_step == x.width || x.rows == 1)) return (const float*)x.data;
    float* out = scratch(slot, x.rows * x.width);
    if (x.step != 1 && x.row_step == 1) {
        // Read along memory.
        std::vector<float> line((size_t)x.rows);
        Operand column{x.data, x.type, x.width, x.rows, x.step, 1};
        for (int64_t i = 0; i < x.width; ++i) {
            read_row(column, i, line.data());
            for (int64_t row = 0; row < x.rows; ++row) out[row * x.width + i] = line[(size_t)row];
        }
    } else {
        for (int64_t row = 0; row < x.rows; ++row) read_row(x, row, out + row * x.width);
    }
    return out;
}

void few_packed(const Packed& w, int64_t count, const float* x, int64_t rows, float* y) {
    int64_t groups = w.width / kGroup, block = (int64_t)chosen->words * (32 / w.bits);
    int64_t padded = (w.width + block - 1) / block * block;
    int64_t parts = (rows + kRows - 1) / kRows;
    float* values = scratch(1, rows * (padded + groups));
    float* sums = values + rows * padded;
    std::vector<Arranged> arranged;
    std::vector<int64_t> starts;
    for (int64_t part = 0; part < parts; ++part) {
        int64_t first = rows * part / parts, some = rows * (part + 1) / parts - first;
        chosen->arrange(x + first * w.width, (int)some, w.width, w.bits, values + first * padded, sums + first * groups);
        arranged.push_back({values + first * padded, sums + first * groups, (int)some});
        starts.push_back(first);
    }
    pool->each(count, grain(count, w.width * rows), [&](int64_t first, int64_t last) {
        float* scales = scratch(2, 4 * (groups + kGroup));
        // A few rows of weights at a time, so that they are still in the first cache for the next rows of x.
        int64_t lines = parts == 1 ? last - first : 8;
        for (int64_t n = first; n < last; n += lines)
            for (size_t part = 0; part < arranged.size(); ++part)
                chosen->packed(w, arranged[part], n, std::min(last, n + lines), y + starts[part] * count, count, scales);
    });
}

int64_t block_rows(int64_t width) { return std::max<int64_t>(64, kBlock / width); }

const float* expanded(const Packed& w, int64_t first, int64_t last) {
    float* block = scratch(3, std::min(last - first, block_rows(w.width)) * w.width);
    int64_t groups = w.width / kGroup;
    pool->each(last - first, grain(last - first, w.width), [&](int64_t from, int64_t to) {
        chosen->expand(w, first + from, first + to, block + from * w.width, scratch(2, 4 * (groups + kGroup)));
    });
    return block;
}

}  // namespace

void set_up(const Kernels* kernels, int threads, Sgemm sgemm) {
    chosen = kernels;
    gemm = sgemm;
    workers = threads;
    // Never taken down: its threads may still sleep when the process ends.
    if (pool == nullptr) pool = new Pool(threads - 1);
}

const Kernels* kernels() { return chosen; }
bool has_blas() { return gemm != nullptr; }

void packed_product(const Packed& w, int64_t count, const Operand& x, float* y) {
    const float* rows = as_float(x, 0);
    if (x.rows <= kFew || gemm == nullptr) {
        for (int64_t first = 0; first < x.rows; first += kFew)
            few_packed(w, count, rows + first * w.width, std::min(kFew, x.rows - first), y + first * count);
        return;
    }
    for (int64_t first = 0; first < count; first += block_rows(w.width)) {
        int64_t last = std::min(count, first + block_rows(w.width));
        const float* block = expanded(w, first, last);
        gemm(kRowMajor, kNoTrans, kTrans, (int)x.rows, (int)(last - first), (int)w.width, 1, rows, (int)w.width, block,
             (int)w.width, 0, y + first, (int)count);
    }
}

void packed_product_plain(const Packed& w, int64_t count, const Operand& x, float* y) {
    const float* rows = as_float(x, 0);
    for (int64_t first = 0; first < count; first += block_rows(w.width)) {
        int64_t last = std::min(count, first + block_rows(w.width));
        const float* block = expanded(w, first, last);
        gemm(kRowMajor, kNoTrans, kNoTrans, (int)x.rows, (int)w.width, (int)(last - first), 1, rows + first, (int)count,
             block, (int)w.width, first > 0 ? 1.0f : 0.0f, y, (int)w.width);
    }
}

void packed_row(const Packed& w, int64_t n, float* y) {
    chosen->expand(w, n, n + 1, y, scratch(2, 4 * (w.width / kGroup + kGroup)));
}

void packed_outputs(const Output* outputs, int number, const float* x) {
    int64_t width = outputs[0].w.width, groups = width / kGroup, total = 0;
    // Laid out for 4 and for 8 bits, whichever are needed.
    const float* arranged[2] = {nullptr, nullptr};
    const float* sums = nullptr;
    for (int i = 0; i < number; ++i) {
        total += outputs[i].count;
        int eight = outputs[i].w.bits == 8;
        if (arranged[eight]) continue;
        int64_t block = (int64_t)chosen->words * (32 / outputs[i].w.bits), padded = (width + block - 1) / block * block;
        float* values = scratch(eight, padded + groups);
        chosen->arrange(x, 1, width, outputs[i].w.bits, values, values + padded);
        arranged[eight] = values;
        sums = values + padded;
    }
    pool->each(total, grain(total, width), [&](int64_t first, int64_t last) {
        float* scales = scratch(2, 4 * (groups + kGroup));
        for (int i = 0; i < number && first < last; ++i) {
            const Output& out = outputs[i];
            int64_t stop = std::min(last, out.count);
            if (first < stop) {
                chosen->packed(out.w, {arranged[out.w.bits == 8], sums, 1}, first, stop, out.y, 0, scales);
                if (out.bias)
                    for (int64_t n = first; n < stop; ++n) out.y[n] += out.bias[n];
            }
            first = std::max<int64_t>(0, first - out.count);
            last -= out.count;
        }
    });
}

void each_head(int64_t heads, int64_t cost, const void* context, void (*body)(const void* context, int64_t head)) {
    pool->each(heads, heads * cost < kAlone ? heads : 1, [&](int64_t first, int64_t last) {
        for (int64_t head = first; head < last; ++head) body(context, head);
    });
}

void plain_product(const Operand& a, const Operand& b, float* y) {
    const float* rows = as_float(a, 0);
    int64_t width = a.width, count = b.rows;
    if (b.type != Type::f32 && b.step == 1 && (a.rows <= kFew || gemm == nullptr)) {
        Half w{(const uint16_t*)b.data, b.type, width, b.row_step};
        pool->each(count, grain(count, width * a.rows), [&](int64_t first, int64_t last) {
            for (int64_t row = 0; row < a.rows; row += kRows)
                chosen->half(w, rows + row * width, (int)std::min<int64_t>(kRows, a.rows - row), width, first, last,
                             y + row * count, count);
        });
        return;
    }
    for (int64_t first = 0; first < count; first += block_rows(width)) {
        int64_t some = std::min(count - first, block_rows(width));
        size_t size = b.type == Type::f32 ? 4 : 2;
        Operand part{(const char*)b.data + first * b.row_step * (int64_t)size, b.type, some, width, b.row_step, b.step};
        gemm(kRowMajor, kNoTrans, kTrans, (int)a.rows, (int)some, (int)width, 1, rows, (int)width, as_float(part, 3),
             (int)width, 0, y + first, (int)count);
    }
}

}  // namespace rave
