// The kernels of products.h, written once over a vector type V that the including file defines:
//   kWords: words of 32 bits in a vector; F, I: vectors of floats and of words;
//   zero(), load(p), store(p, F), add(F, F), mul(F, F), fma(a, b, c) = a * b + c, sum(F), spread(x);
//   words(p), some_words(p, count) with zeros behind; keep(I, mask), high(I, shift): a logical shift to the right;
//   number(I): to float; halves(p), brains(p): kWords floats from float16 and bfloat16.
#include <cmath>
#include <cstring>

namespace rave {
namespace {

inline float scalar_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        float tiny = (float)fraction * 5.9604644775390625e-8f;
        std::memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline float scalar_brain(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

void widen(const uint16_t* from, Type type, int64_t count, float* to) {
    int64_t i = 0;
    if (type == Type::f16) {
        for (; i + kWords <= count; i += kWords) store(to + i, halves(from + i));
        // The last ones once more instead of one by one.
        if (i < count && count >= kWords) i = count, store(to + count - kWords, halves(from + count - kWords));
        for (; i < count; ++i) to[i] = scalar_half(from[i]);
    } else {
        for (; i + kWords <= count; i += kWords) store(to + i, brains(from + i));
        if (i < count && count >= kWords) i = count, store(to + count - kWords, brains(from + count - kWords));
        for (; i < count; ++i) to[i] = scalar_brain(from[i]);
    }
}

constexpr int kLines = 2;    // Rows of weights at a time, for one row of x.
constexpr int kAhead = 1024;  // Words by which the weights are fetched before they are read.

// Code j of a word is read where it lies, as code * 2^(j * bits): x is divided by that power, which is exact. Only the
// last code is shifted, since its place is that of the sign.
template <int BITS>
constexpr int kCodes = 32 / BITS;

template <int BITS>
inline F code(I word, int j) {
    constexpr uint32_t mask = (1u << BITS) - 1;
    return j == kCodes<BITS> - 1 ? number(high(word, 32 - BITS)) : number(keep(word, mask << (j * BITS)));
}

template <int BITS>
inline float weight_of_code(int j) {
    return j == kCodes<BITS> - 1 ? 1.0f : 1.0f / (float)(1u << (j * BITS));
}

// Element 32 / BITS * word + j of a block of x stands at (j, row, word).
template <int BITS>
void arrange_as(const float* x, int rows, int64_t width, float* values) {
    constexpr int codes = kCodes<BITS>, block = codes * kWords;
    for (int64_t start = 0; start < width; start += block, values += block * rows)
        for (int j = 0; j < codes; ++j)
            for (int row = 0; row < rows; ++row)
                for (int word = 0; word < kWords; ++word) {
                    int64_t at = start + codes * word + j;
                    values[(j * rows + row) * kWords + word] =
                        at < width ? x[row * width + at] * weight_of_code<BITS>(j) : 0.0f;
                }
}

void arrange(const float* x, int rows, int64_t width, int bits, float* values, float* sums) {
    if (bits == 4) arrange_as<4>(x, rows, width, values);
    else arrange_as<8>(x, rows, width, values);
    int64_t groups = width / kGroup;
    for (int row = 0; row < rows; ++row)
        for (int64_t g = 0; g < groups; ++g) {
            float total = 0;
            for (int i = 0; i < kGroup; ++i) total += x[row * width + g * kGroup + i];
            sums[row * groups + g] = total;
        }
}

// Factors or shifts of a row as floats, one for each 32 codes, and zeros behind them up to a whole block.
inline void read_scales(const void* data, Type type, int64_t at, int64_t groups, int repeat, int64_t padded, float* out) {
    int64_t count = groups / repeat;
    if (type == Type::f32) std::memcpy(out, (const float*)data + at, sizeof(float) * (size_t)count);
    else widen((const uint16_t*)data + at, type, count, out);
    if (repeat > 1)
        for (int64_t g = groups - 1; g >= 0; --g) out[g] = out[g / repeat];
    for (int64_t g = groups; g < padded; ++g) out[g] = 0;
}

// The factor of each word of a block.
template <int BITS>
inline F factors_of(const float* factors, int64_t block) {
    constexpr int words = kGroup / kCodes<BITS>;  // Words of a group.
    if constexpr (words >= kWords) return spread(factors[block * kWords / words]);
    else return spread_groups<kWords / words>(factors + block * (kWords / words));
}

// LINES rows of weights at a time: their loads and sums do not wait for each other, and x is loaded once.
template <int BITS, int ROWS, int LINES>
inline void packed_lines(const Packed& w, const Arranged& x, int64_t n, float* y, int64_t y_step, float* scratch) {
    constexpr int codes = kCodes<BITS>, block = codes * kWords, stride = block * ROWS;
    int64_t groups = w.width / kGroup, padded = groups + kWords, whole = w.width / block;
    int rest = (int)((w.width - whole * block) / codes);
    const uint32_t* line = w.codes + n * w.code_step;
    F total[LINES][ROWS];
    const float *factors[LINES], *shifts[LINES];
    // In place where they are floats already, and no block reaches beyond them.
    bool ready = w.type == Type::f32 && w.group == kGroup;
    for (int l = 0; l < LINES; ++l) {
        float* scales = scratch + 2 * l * padded;
        int64_t factor_at = (n + l) * w.factor_step, shift_at = (n + l) * w.shift_step;
        factors[l] = ready && rest == 0 ? (const float*)w.factors + factor_at : scales;
        shifts[l] = ready ? (const float*)w.shifts + shift_at : scales + padded;
        size_t size = w.type == Type::f32 ? 4 : 2;
        __builtin_prefetch((const char*)w.factors + factor_at * size + kAhead);
        __builtin_prefetch((const char*)w.shifts + shift_at * size + kAhead);
        if (factors[l] == scales) read_scales(w.factors, w.type, factor_at, groups, w.group / kGroup, padded, scales);
        if (!ready) read_scales(w.shifts, w.type, shift_at, groups, w.group / kGroup, padded, scales + padded);
        for (int row = 0; row < ROWS; ++row) total[l][row] = zero();
    }
    const float* values = x.values;
    for (int64_t b = 0; b < whole + (rest > 0); ++b, values += stride) {
        I word[LINES];
        for (int l = 0; l < LINES; ++l) {
            const uint32_t* at = line + l * w.code_step + b * kWords;
            __builtin_prefetch(at + kAhead);
            word[l] = b < whole ? words(at) : some_words(at, rest);
        }
        F part[LINES][ROWS];
#pragma GCC unroll 8
        for (int j = 0; j < codes; ++j)
            for (int l = 0; l < LINES; ++l) {
                F one = code<BITS>(word[l], j);
                for (int row = 0; row < ROWS; ++row) {
                    F at = load(values + (j * ROWS + row) * kWords);
                    part[l][row] = j == 0 ? mul(one, at) : fma(one, at, part[l][row]);
                }
            }
        for (int l = 0; l < LINES; ++l) {
            F factor = factors_of<BITS>(factors[l], b);
            for (int row = 0; row < ROWS; ++row) total[l][row] = fma(part[l][row], factor, total[l][row]);
        }
    }
    for (int l = 0; l < LINES; ++l)
        for (int row = 0; row < ROWS; ++row) {
            const float* sums = x.sums + row * groups;
            int64_t g = 0;
            for (; g + kWords <= groups; g += kWords) total[l][row] = fma(load(shifts[l] + g), load(sums + g), total[l][row]);
            float out = sum(total[l][row]);
            for (; g < groups; ++g) out += shifts[l][g] * sums[g];
            y[row * y_step + n + l] = out;
        }
}

template <int BITS, int ROWS>
void packed_rows(const Packed& w, const Arranged& x, int64_t first, int64_t last, float* y, int64_t y_step,
                 float* scratch) {
    constexpr int lines = ROWS == 1 ? kLines : 1;
    int64_t n = first;
    for (; n + lines <= last; n += lines) packed_lines<BITS, ROWS, lines>(w, x, n, y, y_step, scratch);
    for (; n < last; ++n) packed_lines<BITS, ROWS, 1>(w, x, n, y, y_step, scratch);
}

template <int BITS>
void packed_as(const Packed& w, const Arranged& x, int64_t first, int64_t last, float* y, int64_t step, float* scratch) {
    switch (x.rows) {
        case 1: return packed_rows<BITS, 1>(w, x, first, last, y, step, scratch);
        case 2: return packed_rows<BITS, 2>(w, x, first, last, y, step, scratch);
        case 3: return packed_rows<BITS, 3>(w, x, first, last, y, step, scratch);
        default: return packed_rows<BITS, 4>(w, x, first, last, y, step, scratch);
    }
}

void packed(const Packed& w, const Arranged& x, int64_t first, int64_t last, float* y, int64_t step, float* scratch) {
    if (w.bits == 4) packed_as<4>(w, x, first, last, y, step, scratch);
    else packed_as<8>(w, x, first, last, y, step, scratch);
}

template <int BITS>
void expand_as(const Packed& w, int64_t first, int64_t last, float* out, float* scratch) {
    constexpr int codes = kCodes<BITS>;
    constexpr uint32_t mask = (1u << BITS) - 1;
    int64_t groups = w.width / kGroup, padded = groups + kWords;
    float *factors = scratch, *shifts = scratch + padded;
    for (int64_t n = first; n < last; ++n) {
        const uint32_t* words_of_row = w.codes + n * w.code_step;
        read_scales(w.factors, w.type, n * w.factor_step, groups, w.group / kGroup, padded, factors);
        read_scales(w.shifts, w.type, n * w.shift_step, groups, w.group / kGroup, padded, shifts);
        for (int64_t g = 0; g < groups; ++g) {
            float factor = factors[g], shift = shifts[g];
            for (int i = 0; i < kGroup / codes; ++i) {
                uint32_t word = *words_of_row++;
                for (int j = 0; j < codes; ++j) *out++ = (float)(int)(word >> (j * BITS) & mask) * factor + shift;
            }
        }
    }
}

void expand(const Packed& w, int64_t first, int64_t last, float* out, float* scratch) {
    if (w.bits == 4) expand_as<4>(w, first, last, out, scratch);
    else expand_as<8>(w, first, last, out, scratch);
}

template <bool BRAIN, int ROWS, int LINES>
inline void half_lines(const Half& w, const float* x, int64_t x_step, int64_t n, float* y, int64_t y_step) {
    const uint16_t* line = w.values + n * w.step;
    F total[LINES][ROWS];
    for (int l = 0; l < LINES; ++l)
        for (int row = 0; row < ROWS; ++row) total[l][row] = zero();
    int64_t i = 0;
    for (; i + kWords <= w.width; i += kWords)
        for (int l = 0; l < LINES; ++l) {
            F one = BRAIN ? brains(line + l * w.step + i) : halves(line + l * w.step + i);
            for (int row = 0; row < ROWS; ++row) total[l][row] = fma(one, load(x + row * x_step + i), total[l][row]);
        }
    for (int l = 0; l < LINES; ++l)
        for (int row = 0; row < ROWS; ++row) {
            float out = sum(total[l][row]);
            for (int64_t k = i; k < w.width; ++k) {
                uint16_t h = line[l * w.step + k];
                out += (BRAIN ? scalar_brain(h) : scalar_half(h)) * x[row * x_step + k];
            }
            y[row * y_step + n + l] = out;
        }
}

template <bool BRAIN, int ROWS>
void half_rows(const Half& w, const float* x, int64_t x_step, int64_t first, int64_t last, float* y, int64_t y_step) {
    int64_t n = first;
    for (; n + 4 <= last; n += 4) half_lines<BRAIN, ROWS, 4>(w, x, x_step, n, y, y_step);
    for (; n < last; ++n) half_lines<BRAIN, ROWS, 1>(w, x, x_step, n, y, y_step);
}

template <bool BRAIN>
void half_as(const Half& w, const float* x, int rows, int64_t x_step, int64_t first, int64_t last, float* y, int64_t step) {
    switch (rows) {
        case 1: return half_rows<BRAIN, 1>(w, x, x_step, first, last, y, step);
        case 2: return half_rows<BRAIN, 2>(w, x, x_step, first, last, y, step);
        case 3: return half_rows<BRAIN, 3>(w, x, x_step, first, last, y, step);
        default: return half_rows<BRAIN, 4>(w, x, x_step, first, last, y, step);
    }
}

void half(const Half& w, const float* x, int rows, int64_t x_step, int64_t first, int64_t last, float* y, int64_t step) {
    if (w.type == Type::bf16) half_as<true>(w, x, rows, x_step, first, last, y, step);
    else half_as<false>(w, x, rows, x_step, first, last, y, step);
}

void attend(const float* query, const float* keys, const float* values, int64_t count, int64_t key_step,
            int64_t value_step, const float* key, const float* value, int64_t width, float* scores, float* out) {
    constexpr int most = 256 / kWords;
    int64_t parts = width / kWords;
    F q[most], total[most];
    for (int64_t i = 0; i < parts; ++i) q[i] = load(query + i * kWords), total[i] = zero();
    float top = 0;
    for (int64_t n = 0; n <= count; ++n) {
        const float* k = n < count ? keys + n * key_step : key;
        F dot = zero();
        for (int64_t i = 0; i < parts; ++i) dot = fma(q[i], load(k + i * kWords), dot);
        scores[n] = sum(dot);
        top = n == 0 || scores[n] > top ? scores[n] : top;
    }
    float weights = 0;
    for (int64_t n = 0; n <= count; ++n) {
        const float* v = n < count ? values + n * value_step : value;
        float weight = std::exp(scores[n] - top);
        weights += weight;
        F spreaded = spread(weight);
        for (int64_t i = 0; i < parts; ++i) total[i] = fma(spreaded, load(v + i * kWords), total[i]);
    }
    F share = spread(1.0f / weights);
    for (int64_t i = 0; i < parts; ++i) store(out + i * kWords, mul(total[i], share));
}

}  // namespace
}  // namespace rave
