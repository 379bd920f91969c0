//@ common
/* Everything below is freestanding C99: no library, no allocation, no static variables. Feature maps
   are uint8, channels last. A real value is (stored - zero) * scale.

   NET_PORTABLE, if defined, leaves out the paths for special instructions; all paths compute the
   same bytes. Options that let a compiler change float arithmetic (-ffast-math) are not allowed. */

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize ("no-tree-loop-distribute-patterns") /* no calls of memset and memcpy */
#endif

#if defined(__FAST_MATH__)
#error "compile net.c without -ffast-math: its answers would differ"
#endif

#if defined(NET_PORTABLE)
#define NET_LANES 0
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define NET_LANES 16
#include <immintrin.h>
#elif defined(__AVX2__)
#define NET_LANES 8
#include <immintrin.h>
#else
#define NET_LANES 0
#endif

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && defined(__GNUC__) && !defined(__ARM_BIG_ENDIAN) \
    && !defined(NET_PORTABLE)
#define NET_MVE 1
#include <arm_mve.h>
#define NET_ALIGNED __attribute__((aligned(4))) /* words are gathered */
#else
#define NET_MVE 0
#define NET_ALIGNED
#endif

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__) && !defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN) \
    && !NET_MVE && !defined(NET_PORTABLE)
#define NET_SMLAD 1
#else
#define NET_SMLAD 0
#endif

#if defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__) && !defined(NET_PORTABLE)
#define NET_UNALIGNED 1 /* four bytes are one instruction, without a call of memcpy */
#else
#define NET_UNALIGNED 0
#endif

static inline uint8_t net_saturated(int32_t value)
{
#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__) && !defined(__aarch64__) && !defined(NET_PORTABLE)
    uint32_t y;
    __asm__("usat %0, #8, %1" : "=r"(y) : "r"(value));
    return (uint8_t)y;
#else
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
#endif
}

//@ nearest
#if defined(__ARM_FP) && (__ARM_FP & 4) && defined(__GNUC__) && !defined(__aarch64__) && !defined(NET_PORTABLE)
#define NET_VCVTR 1
#define NET_SHORT static inline __attribute__((always_inline)) /* shorter than a call */
#else
#define NET_VCVTR 0
#define NET_SHORT static inline
#endif

/* The nearest integer, halves to even. It works on the bits, so that no compiler can join the
   product before it with an addition (fused multiply-add), which would round once too little. */
NET_SHORT int32_t net_nearest(float value)
{
#if NET_VCVTR
    union { float real; int32_t whole; } y;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(y.real) : "t"(value)); /* the mode after reset: to even */
    return y.whole;
#else
    union { float real; uint32_t bits; } x;
    uint32_t digits, whole, rest;
    int32_t shift;
    x.real = value;
    shift = 150 - (int32_t)(x.bits >> 23 & 255); /* value = digits / 2^shift */
    digits = (x.bits & 0x7FFFFF) | 0x800000;
    if (shift > 24)
        whole = 0;
    else if (shift < 1)
        whole = 0x7FFFFF;
    else {
        whole = digits >> shift;
        rest = digits << (32 - shift);
        whole += rest > 0x80000000u || (rest == 0x80000000u && (whole & 1));
    }
    return x.bits >> 31 ? -(int32_t)whole : (int32_t)whole;
#endif
}

/* A sum of products as a byte of the next feature map. */
NET_SHORT uint8_t net_requantized(int32_t sum, float factor, int32_t zero)
{
    return net_saturated(net_nearest((float)sum * factor) + zero);
}

//@ products
/* Weights of convolutions and linear layers: [row of the window][quad][output channel][4], where a
   quad is four neighbouring values of a row of the window (its columns and channels); the last
   one is filled up with zeros. Biases contain what the zero point of the input adds to a sum over
   the whole window, and values outside of the input are its zero point. */

#if NET_LANES || NET_SMLAD
static inline uint32_t net_load4(const uint8_t *x)
{
#if NET_UNALIGNED
    uint32_t four;
    __builtin_memcpy(&four, x, 4);
    return four;
#else
    return x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
#endif
}
#endif

/* Values `at` to `at` + 3 of the row that begins at x[start]; those outside of low to high are `zero`. */
static void net_edge4(const uint8_t *x, int32_t start, int32_t at, int32_t low, int32_t high, int32_t zero, uint8_t four[4])
{
    int32_t n;
    for (n = 0; n < 4; n++)
        four[n] = at + n >= low && at + n < high ? x[start + at + n] : (uint8_t)zero;
}

#if NET_LANES == 16

typedef __m512i net_sums;
typedef __m512i net_quad;
typedef __mmask16 net_mask;

static inline net_mask net_first(int32_t n)
{
    return (net_mask)(n >= 16 ? 0xFFFF : (1 << n) - 1);
}

static inline net_sums net_start(const int32_t *biases, net_mask mask)
{
    return _mm512_maskz_loadu_epi32(mask, biases);
}

static inline net_quad net_weights(const int8_t *w, net_mask mask)
{
    return _mm512_maskz_loadu_epi32(mask, w);
}

static inline net_sums net_dot(net_sums sums, uint32_t four, net_quad w)
{
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32((int32_t)four), w);
}

static inline net_sums net_none(void)
{
    return _mm512_setzero_si512();
}

static inline net_sums net_both(net_sums a, net_sums b)
{
    return _mm512_add_epi32(a, b);
}

static inline void net_store(uint8_t *y, net_sums sums, const float *factors, int32_t zero, net_mask mask)
{
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_maskz_loadu_ps(mask, factors));
    const __m512i near = _mm512_cvtps_epi32(_mm512_min_ps(scaled, _mm512_set1_ps(65536.0f)));
    const __m512i whole = _mm512_add_epi32(near, _mm512_set1_epi32(zero));
    _mm512_mask_cvtusepi32_storeu_epi8(y, mask, _mm512_max_epi32(whole, _mm512_setzero_si512()));
}

static inline void net_store_sums(int32_t *y, net_sums sums, net_mask mask)
{
    _mm512_mask_storeu_epi32(y, mask, sums);
}

#elif NET_LANES == 8

typedef __m256i net_quad;
typedef __m256i net_mask;

static inline net_mask net_first(int32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline net_quad net_weights(const int8_t *w, net_mask mask)
{
    return _mm256_maskload_epi32((const int *)(const void *)w, mask);
}

#if defined(__AVXVNNI__)

typedef __m256i net_sums;

static inline net_sums net_start(const int32_t *biases, net_mask mask)
{
    return _mm256_maskload_epi32(biases, mask);
}

static inline net_sums net_dot(net_sums sums, uint32_t four, net_quad w)
{
    return _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi32((int32_t)four), w);
}

static inline net_sums net_none(void)
{
    return _mm256_setzero_si256();
}

static inline net_sums net_both(net_sums a, net_sums b)
{
    return _mm256_add_epi32(a, b);
}

static inline __m256i net_total(net_sums sums)
{
    return sums;
}

#else

typedef struct {
    __m256i low, high; /* output channels 0 to 3 and 4 to 7, two halves of each sum side by side */
} net_sums;

static inline net_sums net_start(const int32_t *biases, net_mask mask)
{
    const __m256i b = _mm256_maskload_epi32(biases, mask);
    net_sums sums;
    sums.low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(b));
    sums.high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(b, 1));
    return sums;
}

static inline net_sums net_dot(net_sums sums, uint32_t four, net_quad w)
{
    const __m256i x = _mm256_cvtepu8_epi16(_mm_set1_epi32((int32_t)four));
    const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w));
    const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(w, 1));
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(x, low));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(x, high));
    return sums;
}

static inline net_sums net_none(void)
{
    net_sums sums;
    sums.low = sums.high = _mm256_setzero_si256();
    return sums;
}

static inline net_sums net_both(net_sums a, net_sums b)
{
    a.low = _mm256_add_epi32(a.low, b.low);
    a.high = _mm256_add_epi32(a.high, b.high);
    return a;
}

static inline __m256i net_total(net_sums sums)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums.low, sums.high), 0xD8);
}

#endif

static inline void net_store(uint8_t *y, net_sums sums, const float *factors, int32_t zero, net_mask mask)
{
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(net_total(sums)), _mm256_maskload_ps(factors, mask));
    const __m256i near = _mm256_cvtps_epi32(_mm256_min_ps(scaled, _mm256_set1_ps(65536.0f)));
    const __m256i whole = _mm256_add_epi32(near, _mm256_set1_epi32(zero));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i bytes = _mm_packus_epi16(words, words);
    const int32_t set = _mm256_movemask_ps(_mm256_castsi256_ps(mask));
    if (set == 255)
        _mm_storel_epi64((__m128i *)(void *)y, bytes);
    else {
        uint8_t eight[8];
        int32_t n;
        _mm_storel_epi64((__m128i *)(void *)eight, bytes);
        for (n = 0; set >> n & 1; n++)
            y[n] = eight[n];
    }
}

static inline void net_store_sums(int32_t *y, net_sums sums, net_mask mask)
{
    _mm256_maskstore_epi32(y, mask, net_total(sums));
}

#else

#define NET_BLOCK 4 /* output channels at once */

#if defined(__GNUC__)
#define NET_ALONE __attribute__((noinline))
#define NET_FORGET __asm__ volatile("" ::: "memory")
#else
#define NET_ALONE
#define NET_FORGET
#endif

/* First channel of the block from channel o; the last block may overlap the one before it. */
static inline int32_t net_block(int32_t o, int32_t channels)
{
    return o + NET_BLOCK <= channels || channels < NET_BLOCK ? o : channels - NET_BLOCK;
}

#if NET_SMLAD

/* s0 to s3 += four values of x times the weights of four output channels; one statement, so that all
   of it stays in registers. */
#define NET_DOT(n)                                                                                  \
    "ldr %[t], [%[w], #" #n " * 4]\n\tsxtb16 %[u], %[t]\n\tsxtb16 %[t], %[t], ror #8\n\t"            \
    "smlad %[s" #n "], %[a], %[u], %[s" #n "]\n\tsmlad %[s" #n "], %[b], %[t], %[s" #n "]\n\t"
#define NET_DOTS                                                                                    \
    do {                                                                                            \
        uint32_t a, b, t, u;                                                                        \
        __asm__ volatile("ldr %[t], [%[x]], #4\n\tuxtb16 %[a], %[t]\n\tuxtb16 %[b], %[t], ror #8\n\t" \
                         NET_DOT(0) NET_DOT(1) NET_DOT(2) NET_DOT(3) "add %[w], %[w], %[more]"      \
                         : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [x] "+r"(x), \
                           [w] "+r"(w), [a] "=&r"(a), [b] "=&r"(b), [t] "=&r"(t), [u] "=&r"(u)      \
                         : [more] "r"(more)                                                         \
                         : "memory");                                                               \
    } while (0)

#elif !NET_MVE

/* Sums += value x[n] times its weights. */
#define NET_DOT(n)                   \
    do {                             \
        const int32_t value = x[n];  \
        s0 += value * w[n];          \
        s1 += value * w[n + 4];      \
        s2 += value * w[n + 8];      \
        s3 += value * w[n + 12];     \
    } while (0)
#define NET_DOTS   \
    do {           \
        NET_DOT(0);\
        NET_DOT(1);\
        NET_DOT(2);\
        NET_DOT(3);\
        x += 4;    \
        w += more; \
    } while (0)

#endif

#if NET_MVE

/* sum += values times the weights that are gathered at w[at], a word a quad; `more` gets the sum of
   these weights. */
#define NET_DOT(sum, more, at, gathered)                                                                   \
    do {                                                                                                   \
        const int32_t *const from = (const int32_t *)(const void *)(w + (at));                             \
        const int8x16_t four = vreinterpretq_s8_s32(gathered);                                             \
        sum = vmladavaq_s8(sum, values, four);                                                             \
        more = vaddvaq_s8(more, four);                                                                     \
    } while (0)
#define NET_WHOLE vldrwq_gather_offset_s32(from, places)
#define NET_PART vldrwq_gather_offset_z_s32(from, places, words)

/* sums[0..3] += `rows` rows of `quads` quads of x times the weights of four output channels, four
   quads at once; from the end of a row to the next one it is `skip` bytes. Bytes are multiplied as signed ones, so that
   a value is 128 less than it is. */
static void net_rows(int32_t *sums, const uint8_t *x, int32_t skip, int32_t rows, int32_t quads, const int8_t *w, int32_t pitch)
{
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)pitch);
    const uint8x16_t signs = vdupq_n_u8(128);
    const int32_t rest = quads & 3;
    const mve_pred16_t words = vctp32q((uint32_t)rest), bytes = vctp8q((uint32_t)(4 * rest));
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3], m0 = 0, m1 = 0, m2 = 0, m3 = 0, n;
    do {
        for (n = quads >> 2; n > 0; n--) {
            const int8x16_t values = vreinterpretq_s8_u8(veorq_u8(vldrbq_u8(x), signs));
            NET_DOT(s0, m0, 0, NET_WHOLE);
            NET_DOT(s1, m1, 4, NET_WHOLE);
            NET_DOT(s2, m2, 8, NET_WHOLE);
            NET_DOT(s3, m3, 12, NET_WHOLE);
            x += 16;
            w += 4 * pitch;
        }
        if (rest) {
            const int8x16_t values = vreinterpretq_s8_u8(veorq_u8(vldrbq_z_u8(x, bytes), signs));
            NET_DOT(s0, m0, 0, NET_PART);
            NET_DOT(s1, m1, 4, NET_PART);
            NET_DOT(s2, m2, 8, NET_PART);
            NET_DOT(s3, m3, 12, NET_PART);
            x += 4 * rest;
            w += rest * pitch;
        }
        x += skip;
    } while (--rows);
    sums[0] = s0 + 128 * m0;
    sums[1] = s1 + 128 * m1;
    sums[2] = s2 + 128 * m2;
    sums[3] = s3 + 128 * m3;
}

static inline void net_quads(int32_t *sums, const uint8_t *x, int32_t quads, const int8_t *w, int32_t pitch)
{
    net_rows(sums, x, 0, 1, quads, w, pitch);
}

#else

/* s0 to s3 += `rows` rows of `padded` values of x times the weights of four output channels; from the
   end of a row of x to the next one it is `skip` bytes. */
#define NET_QUADS(from, skip, rows, padded, w, pitch)                                              \
    do {                                                                                           \
        const uint8_t *x = from;                                                                   \
        const int32_t more = pitch;                                                                \
        do {                                                                                       \
            const uint8_t *const end = x + (padded);                                               \
            do {                                                                                   \
                NET_DOTS;                                                                          \
            } while (x != end);                                                                    \
            x += skip;                                                                             \
        } while (--rows);                                                                          \
    } while (0)

/* The same for sums in memory. */
static void net_quads(int32_t *sums, const uint8_t *from, int32_t quads, const int8_t *w, int32_t pitch)
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3], rows = 1;
    NET_QUADS(from, 0, rows, 4 * quads, w, pitch);
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

#endif

#endif

//@ conv
/* Convolution. Its window reaches beyond the input by pad_rows and pad_columns. */
struct net_conv {
    int32_t height, width, channels, out_height, out_width, out_channels;
    int32_t rows, columns, stride, pad_rows, pad_columns, zero, out_zero;
    int32_t pitch; /* bytes of weights of a quad: 4 an output channel, at least 16 */
    const int8_t *weights;
    const int32_t *biases;
    const float *factors; /* input scale * weight scale / output scale, an output channel each */
};

#if NET_LANES

#if defined(__GNUC__)
#define NET_INLINE static inline __attribute__((always_inline)) /* `count` becomes a constant */
#else
#define NET_INLINE static inline
#endif

#if NET_LANES == 16
#define NET_PLACES 8 /* at once */
#else
#define NET_PLACES 4
#endif

/* All output channels at one place, whose window may reach beyond the input. */
static void net_conv_edge(const struct net_conv *p, const uint8_t *x, int32_t top, int32_t left, uint8_t *y)
{
    const int32_t channels = p->channels, right = left + p->columns, zero = p->zero;
    const int32_t values = p->columns * channels, padded = (values + 3) & ~3;
    const int32_t all = p->height * p->width * channels;
    const uint32_t zeros = (uint32_t)zero * 0x01010101u;
    const int32_t low = left < 0 ? -left * channels : 0;
    const int32_t high = right > p->width ? (p->width - left) * channels : values;
    int32_t o, r, n;
    for (o = 0; o < p->out_channels; o += NET_LANES) {
        const net_mask mask = net_first(p->out_channels - o);
        const int8_t *w = p->weights + 4 * o;
        net_sums sums = net_start(p->biases + o, mask), more = net_none();
        for (r = 0; r < p->rows; r++, w += padded / 4 * p->pitch) {
            const int32_t start = ((top + r) * p->width + left) * channels;
            const int8_t *v = w;
            uint8_t four[4];
            int32_t whole;
            if (top + r < 0 || top + r >= p->height) {
                for (n = 0; zero && n < padded; n += 4, v += p->pitch)
                    sums = net_dot(sums, zeros, net_weights(v, mask));
                continue;
            }
            /* A quad that reaches beyond its row meets weights of 0: it is read whole, but not beyond
               the input. */
            whole = high < values ? high : all - start < padded ? all - start : padded;
            n = zero ? 0 : low & ~3;
            v += n / 4 * p->pitch;
            for (; n < low; n += 4, v += p->pitch) {
                net_edge4(x, start, n, low, high, zero, four);
                sums = net_dot(sums, net_load4(four), net_weights(v, mask));
            }
            for (; n + 8 <= whole; n += 8, v += 2 * p->pitch) {
                sums = net_dot(sums, net_load4(x + (start + n)), net_weights(v, mask));
                more = net_dot(more, net_load4(x + (start + n + 4)), net_weights(v + p->pitch, mask));
            }
            for (; n + 4 <= whole; n += 4, v += p->pitch)
                sums = net_dot(sums, net_load4(x + (start + n)), net_weights(v, mask));
            for (; n < (zero ? padded : high); n += 4, v += p->pitch) {
                net_edge4(x, start, n, low, high, zero, four);
                sums = net_dot(sums, net_load4(four), net_weights(v, mask));
            }
        }
        net_store(y + o, net_both(sums, more), p->factors + o, p->out_zero, mask);
    }
}

/* All output channels at `count` neighbouring places of a row, at most NET_PLACES, whose windows lie
   inside of the input but for their first `above` and last `below` rows; x is at the
   first row inside. */
NET_INLINE void net_conv_some(const struct net_conv *p, const uint8_t *x, int32_t above, int32_t below, uint8_t *y, const int32_t count)
{
    const int32_t quads = (p->columns * p->channels + 3) / 4, out = p->out_channels;
    const int32_t step = p->stride * p->channels, line = p->width * p->channels;
    const uint32_t zeros = (uint32_t)p->zero * 0x01010101u;
    int32_t o, r, q, n;
    for (o = 0; o < out; o += NET_LANES) {
        const net_mask mask = net_first(out - o);
        const int8_t *w = p->weights + 4 * o;
        net_sums start = net_start(p->biases + o, mask), sums[NET_PLACES];
        const uint8_t *from = x;
        if (p->zero) { /* rows outside add the same at all places */
            for (q = 0; q < above * quads; q++)
                start = net_dot(start, zeros, net_weights(w + q * p->pitch, mask));
            for (q = (p->rows - below) * quads; q < p->rows * quads; q++)
                start = net_dot(start, zeros, net_weights(w + q * p->pitch, mask));
        }
        w += above * quads * p->pitch;
        for (n = 0; n < count; n++)
            sums[n] = start;
        for (r = above; r < p->rows - below; r++, from += line - 4 * quads)
            for (q = 0; q < quads; q++, w += p->pitch, from += 4) {
                const net_quad four = net_weights(w, mask);
                for (n = 0; n < count; n++)
                    sums[n] = net_dot(sums[n], net_load4(from + n * step), four);
            }
        for (n = 0; n < count; n++)
            net_store(y + o + n * out, sums[n], p->factors + o, p->out_zero, mask);
    }
}

static void net_conv(const struct net_conv *p, const uint8_t *x, uint8_t *y)
{
    const int32_t line = p->width * p->channels, padded = (p->columns * p->channels + 3) & ~3;
    /* Quads are read whole, so the last one may reach beyond its window, never beyond the input. */
    const int32_t end = p->height * line - padded;
    int32_t row, column;
    for (row = 0; row < p->out_height; row++) {
        const int32_t top = row * p->stride - p->pad_rows, under = top + p->rows - p->height;
        const int32_t above = top < 0 ? -top : 0, below = under > 0 ? under : 0;
        for (column = 0; column < p->out_width;) {
            const int32_t left = column * p->stride - p->pad_columns;
            const int32_t start = top * line + left * p->channels;
            const int32_t last = start + (p->rows - 1 - below) * line;
            int32_t count = 0, n; /* places whose windows lie inside */
            for (n = 0; left >= 0 && n < NET_PLACES && column + n < p->out_width; n++) {
                const int32_t more = n * p->stride;
                if (left + more + p->columns <= p->width && last + more * p->channels <= end)
                    count = n + 1;
            }
            if (above + below >= p->rows || count == 0) {
                net_conv_edge(p, x, top, left, y);
                count = 1;
            } else if (count >= 8 && NET_PLACES >= 8) {
                net_conv_some(p, x + (start + above * line), above, below, y, NET_PLACES);
                count = NET_PLACES;
            } else if (count >= 4) {
                net_conv_some(p, x + (start + above * line), above, below, y, 4);
                count = 4;
            } else if (count >= 2) {
                net_conv_some(p, x + (start + above * line), above, below, y, 2);
                count = 2;
            } else {
                net_conv_some(p, x + (start + above * line), above, below, y, 1);
            }
            column += count;
            y += count * p->out_channels;
        }
    }
}

#else

/* sums[0..3] += what a window that may reach beyond the input gives with the weights w. */
static void net_conv_edge(const struct net_conv *p, const uint8_t *x, int32_t top, int32_t left, const int8_t *w, int32_t *sums)
{
    const int32_t channels = p->channels, right = left + p->columns, zero = p->zero;
    const int32_t values = p->columns * channels, padded = (values + 3) & ~3;
    const int32_t all = p->height * p->width * channels;
    int32_t r;
    for (r = 0; r < p->rows; r++, w += padded / 4 * p->pitch) {
        const int32_t start = ((top + r) * p->width + left) * channels;
        int32_t low = left < 0 ? -left * channels : 0, whole, at = 0, stop = padded;
        int32_t high = right > p->width ? (p->width - left) * channels : values;
        if (top + r < 0 || top + r >= p->height)
            low = high = 0;
        if (zero == 0) { /* what is outside adds nothing */
            at = low & ~3;
            stop = high;
        }
        /* A quad that reaches beyond its row meets weights of 0: it is read whole, but not beyond
           the input. */
        whole = high < values ? high : all - start < padded ? all - start : padded;
        while (at < stop) {
            const int8_t *v = w + at / 4 * p->pitch;
            uint8_t four[4];
            if (at >= low && at + 4 <= whole) {
                const int32_t quads = (whole - at) / 4;
                net_quads(sums, x + (start + at), quads, v, p->pitch);
                at += 4 * quads;
            } else {
                net_edge4(x, start, at, low, high, zero, four);
                net_quads(sums, four, 1, v, p->pitch);
                at += 4;
            }
        }
    }
}

/* Bytes of four output channels, or of all where there are fewer. */
static inline void net_store_four(const struct net_conv *p, int32_t block, int32_t s0, int32_t s1, int32_t s2, int32_t s3, uint8_t *to)
{
    const float *const factors = p->factors + block;
    const int32_t out = p->out_channels, zero = p->out_zero;
    to[0] = net_requantized(s0, factors[0], zero);
    if (out > 1)
        to[1] = net_requantized(s1, factors[1], zero);
    if (out > 2)
        to[2] = net_requantized(s2, factors[2], zero);
    if (out > 3)
        to[3] = net_requantized(s3, factors[3], zero);
}

/* All output channels at a place, whose window may reach beyond the input. */
static void net_conv_border(const struct net_conv *p, const uint8_t *x, int32_t top, int32_t left, uint8_t *y)
{
    int32_t o, n;
    for (o = 0; o < p->out_channels; o += NET_BLOCK) {
        const int32_t block = net_block(o, p->out_channels);
        int32_t sums[NET_BLOCK];
        for (n = 0; n < NET_BLOCK; n++)
            sums[n] = p->biases[block + n];
        net_conv_edge(p, x, top, left, p->weights + 4 * block, sums);
        for (n = 0; n < NET_BLOCK && block + n < p->out_channels; n++)
            y[block + n] = net_requantized(sums[n], p->factors[block + n], p->out_zero);
    }
}

/* Four output channels at `count` neighbouring places of a row, whose windows lie inside of the input. */
struct net_four {
    const struct net_conv *p;
    const uint8_t *from;
    uint8_t *to;
    int32_t block, count;
};

/* A function of its own, which takes all from memory again after the sums, so that these stay in
   registers. */
NET_ALONE static void net_conv_four(struct net_four *job)
{
    do {
        const struct net_conv *p = job->p;
        const int32_t *const biases = p->biases + job->block;
        const int32_t padded = (p->columns * p->channels + 3) & ~3, skip = p->width * p->channels - padded;
        const uint8_t *const from = job->from;
        const int8_t *w = p->weights + 4 * job->block;
#if NET_MVE
        int32_t sums[NET_BLOCK] = {biases[0], biases[1], biases[2], biases[3]};
        net_rows(sums, from, skip, p->rows, padded / 4, w, p->pitch);
        net_store_four(p, job->block, sums[0], sums[1], sums[2], sums[3], job->to);
#else
        int32_t s0 = biases[0], s1 = biases[1], s2 = biases[2], s3 = biases[3], rows = p->rows;
        NET_QUADS(from, skip, rows, padded, w, p->pitch);
        NET_FORGET;
        p = job->p;
        net_store_four(p, job->block, s0, s1, s2, s3, job->to);
#endif
        job->from += p->stride * p->channels;
        job->to += p->out_channels;
    } while (--job->count);
}

static void net_conv(const struct net_conv *p, const uint8_t *x, uint8_t *y)
{
    const int32_t line = p->width * p->channels, padded = (p->columns * p->channels + 3) & ~3;
    const int32_t last = p->height * line - (p->rows - 1) * line - padded; /* start of a whole window */
    int32_t row, column, count, at, o;
    for (row = 0; row < p->out_height; row++)
        for (column = 0; column < p->out_width; column += count, y += count * p->out_channels) {
            const int32_t top = row * p->stride - p->pad_rows, left = column * p->stride - p->pad_columns;
            const int32_t start = top * line + left * p->channels;
            count = 0;
            if (top >= 0 && top + p->rows <= p->height && left >= 0)
                for (at = left; column + count < p->out_width && at + p->columns <= p->width
                     && top * line + at * p->channels <= last; at += p->stride)
                    count++;
            if (count > 0) {
                for (o = 0; o < p->out_channels; o += NET_BLOCK) {
                    struct net_four job;
                    job.p = p;
                    job.block = net_block(o, p->out_channels);
                    job.from = x + start;
                    job.to = y + job.block;
                    job.count = count;
                    net_conv_four(&job);
                }
            } else {
                net_conv_border(p, x, top, left, y);
                count = 1;
            }
        }
}

#endif

//@ linear
/* Linear layer: logit = sum * scale, rounded once. */
struct net_linear {
    int32_t channels, classes, pitch;
    const int8_t *weights;
    const int32_t *biases;
    const float *scales; /* input scale * weight scale, a class each */
};

static void net_linear(const struct net_linear *p, const uint8_t *x, float *logits)
{
    const int32_t channels = p->channels, whole = channels & ~3, count = p->classes;
    int32_t o, n;
#if NET_LANES
    for (o = 0; o < count; o += NET_LANES) {
        const net_mask mask = net_first(count - o);
        const int8_t *w = p->weights + 4 * o;
        int32_t stored[NET_LANES];
        net_sums sums = net_start(p->biases + o, mask);
        for (n = 0; n < whole; n += 4, w += p->pitch)
            sums = net_dot(sums, net_load4(x + n), net_weights(w, mask));
        if (whole < channels) {
            uint8_t four[4];
            net_edge4(x, 0, whole, 0, channels, 0, four);
            sums = net_dot(sums, net_load4(four), net_weights(w, mask));
        }
        net_store_sums(stored, sums, mask);
        for (n = 0; n < NET_LANES && o + n < count; n++)
            logits[o + n] = (float)stored[n] * p->scales[o + n];
    }
#else
    for (o = 0; o < count; o += NET_BLOCK) {
        const int32_t block = net_block(o, count);
        const int8_t *w = p->weights + 4 * block;
        int32_t sums[NET_BLOCK];
        for (n = 0; n < NET_BLOCK; n++)
            sums[n] = p->biases[block + n];
        if (whole)
            net_quads(sums, x, whole / 4, w, p->pitch);
        if (whole < channels) {
            uint8_t four[4];
            net_edge4(x, 0, whole, 0, channels, 0, four);
            net_quads(sums, four, 1, w + whole / 4 * p->pitch, p->pitch);
        }
        for (n = 0; n < NET_BLOCK && block + n < count; n++)
            logits[block + n] = (float)sums[n] * p->scales[block + n];
    }
#endif
}

//@ depthwise
/* Depthwise convolution, a filter for each channel; weights [row][column][channel]. */
struct net_depthwise {
    int32_t height, width, channels, out_height, out_width;
    int32_t rows, columns, stride, pad_rows, pad_columns, zero, out_zero;
    const int8_t *weights;
    const int32_t *biases;
    const float *factors; /* input scale * weight scale / output scale, a channel each */
};

#if NET_LANES

#define NET_DEPTHWISE_BLOCK 32 /* channels at once */

/* sums += part of a window times its weights, for `count` channels; the steps are those from a row to
   the next. */
static inline void net_taps(int32_t *sums, int32_t count, const uint8_t *x, int32_t step, const int8_t *w, int32_t w_step, int32_t rows, int32_t columns, int32_t channels, int32_t zero)
{
    int32_t r, k, n;
    for (r = 0; r < rows; r++, x += step, w += w_step) {
        const uint8_t *from = x;
        const int8_t *v = w;
        for (k = 0; k < columns; k++, from += channels, v += channels)
            for (n = 0; n < count; n++)
                sums[n] += (from[n] - zero) * v[n];
    }
}

static void net_depthwise(const struct net_depthwise *p, const uint8_t *x, uint8_t *y)
{
    const int32_t channels = p->channels, step = p->width * channels, w_step = p->columns * channels;
    int32_t row, column, c, n;
    for (row = 0; row < p->out_height; row++)
        for (column = 0; column < p->out_width; column++, y += channels) {
            const int32_t top = row * p->stride - p->pad_rows, left = column * p->stride - p->pad_columns;
            const int32_t first_row = top < 0 ? -top : 0, first = left < 0 ? -left : 0;
            const int32_t rows = (top + p->rows > p->height ? p->height - top : p->rows) - first_row;
            const int32_t columns = (left + p->columns > p->width ? p->width - left : p->columns) - first;
            const uint8_t *from = x + (top + first_row) * step + (left + first) * channels;
            const int8_t *w = p->weights + first_row * w_step + first * channels;
            for (c = 0; c < channels; c += NET_DEPTHWISE_BLOCK) {
                const int32_t count = channels - c < NET_DEPTHWISE_BLOCK ? channels - c : NET_DEPTHWISE_BLOCK;
                int32_t sums[NET_DEPTHWISE_BLOCK];
                for (n = 0; n < count; n++)
                    sums[n] = p->biases[c + n];
                if (count == NET_DEPTHWISE_BLOCK)
                    net_taps(sums, NET_DEPTHWISE_BLOCK, from + c, step, w + c, w_step, rows, columns, channels, p->zero);
                else
                    net_taps(sums, count, from + c, step, w + c, w_step, rows, columns, channels, p->zero);
                for (n = 0; n < count; n += NET_LANES) {
                    const net_mask mask = net_first(count - n);
                    net_store(y + c + n, net_start(sums + n, mask), p->factors + c + n, p->out_zero, mask);
                }
            }
        }
}

#else

#if NET_SMLAD && defined(__OPTIMIZE__) /* without, there are too few registers for one statement */
#define NET_PAIRS 1
typedef uint32_t net_weight;
#else
#define NET_PAIRS 0
typedef int8_t net_weight;
#endif

/* Four channels at `count` neighbouring places of a row, of whose windows the same rows and columns,
   one at least, lie inside of the input. */
struct net_run {
    const struct net_depthwise *p;
    const uint8_t *x; /* the first value inside, of the first channel */
    const net_weight *w;
    uint8_t *y;
    int32_t starts[4]; /* of the sums: biases less zero times the weights inside */
    int32_t channel, rows, wide, x_skip, w_skip, count;
};

/* s0 to s3 += four channels of x times their weights. */
#if NET_PAIRS
#define NET_TAP                                                                                     \
    do {                                                                                            \
        uint32_t a, b, t, u;                                                                        \
        __asm__ volatile("ldr %[t], [%[x]]\n\tldrd %[b], %[u], [%[w]], #8\n\tadd %[x], %[x], %[more]\n\t" \
                         "uxtb16 %[a], %[t]\n\tuxtb16 %[t], %[t], ror #8\n\t"                     \
                         "smlabb %[s0], %[a], %[b], %[s0]\n\tsmlatt %[s2], %[a], %[b], %[s2]\n\t"   \
                         "smlabb %[s1], %[t], %[u], %[s1]\n\tsmlatt %[s3], %[t], %[u], %[s3]"       \
                         : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [x] "+r"(x), \
                           [w] "+r"(w), [a] "=&r"(a), [b] "=&r"(b), [t] "=&r"(t), [u] "=&r"(u)      \
                         : [more] "r"(more)                                                         \
                         : "memory");                                                               \
    } while (0)
#elif !NET_MVE
#define NET_TAP            \
    do {                   \
        s0 += x[0] * w[0]; \
        s1 += x[1] * w[1]; \
        s2 += x[2] * w[2]; \
        s3 += x[3] * w[3]; \
        x += more;         \
        w += more;         \
    } while (0)
#endif

/* A function of its own, as net_conv_four. */
NET_ALONE static void net_depthwise_four(struct net_run *run)
{
    do {
        const struct net_depthwise *p = run->p;
        const uint8_t *x = run->x;
        const net_weight *w = run->w;
        const int32_t more = p->channels;
        const float *factors;
        uint8_t *y;
        int32_t s0, s1, s2, s3, rows = run->rows;
#if NET_MVE
        int32_t sums[4];
        int32x4_t all = vldrwq_s32(run->starts);
#else
        s0 = run->starts[0], s1 = run->starts[1], s2 = run->starts[2], s3 = run->starts[3];
#endif
        do {
            const uint8_t *const end = x + run->wide;
            do {
#if NET_MVE
                all = vaddq_s32(all, vmulq_s32(vreinterpretq_s32_u32(vldrbq_u32(x)), vldrbq_s32(w)));
                x += more;
                w += more;
#else
                NET_TAP;
#endif
            } while (x != end);
            x += run->x_skip;
            w += run->w_skip;
        } while (--rows);
#if NET_MVE
        vstrwq_s32(sums, all);
        s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
#endif
        NET_FORGET;
        p = run->p;
        factors = p->factors + run->channel;
        y = run->y;
        y[0] = net_requantized(s0, factors[0], p->out_zero);
        y[1] = net_requantized(s1, factors[1], p->out_zero);
        y[2] = net_requantized(s2, factors[2], p->out_zero);
        y[3] = net_requantized(s3, factors[3], p->out_zero);
        run->x += p->stride * p->channels;
        run->y += p->channels;
    } while (--run->count);
}

#if NET_PAIRS
/* Weights of four channels as 16 bits: of each tap those of channels 0 and 2, then of 1 and 3. */
static void net_pairs(const struct net_depthwise *p, int32_t channel, uint32_t *pairs)
{
    const int8_t *w = p->weights + channel;
    int32_t taps;
    for (taps = p->rows * p->columns; taps > 0; taps--, w += p->channels, pairs += 2) {
        const uint32_t four = net_load4((const uint8_t *)w);
        __asm__("sxtb16 %0, %1" : "=r"(pairs[0]) : "r"(four));
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(pairs[1]) : "r"(four));
    }
}
#endif

/* starts = biases of four channels, less zero times the weights of `rows` rows of `columns` taps. */
static void net_starts(const struct net_depthwise *p, int32_t channel, const int8_t *w, int32_t rows, int32_t columns, int32_t *starts)
{
    int32_t r, k, n;
    for (n = 0; n < 4; n++) {
        uint32_t sum = (uint32_t)p->biases[channel + n]; /* may pass 32 bits until x is added */
        const int8_t *from = w + n;
        for (r = 0; p->zero && r < rows; r++, from += p->columns * p->channels)
            for (k = 0; k < columns; k++)
                sum -= (uint32_t)(p->zero * from[k * p->channels]);
        starts[n] = (int32_t)sum;
    }
}

#if NET_DEPTHWISE_FEW
/* The same for fewer than four channels. */
static void net_depthwise_few(const struct net_depthwise *p, const uint8_t *x, uint8_t *y)
{
    int32_t row, column, c, r, k;
    for (row = 0; row < p->out_height; row++)
        for (column = 0; column < p->out_width; column++)
            for (c = 0; c < p->channels; c++) {
                const int32_t top = row * p->stride - p->pad_rows, left = column * p->stride - p->pad_columns;
                int32_t sum = p->biases[c];
                for (r = 0; r < p->rows; r++)
                    for (k = 0; k < p->columns; k++)
                        if (top + r >= 0 && top + r < p->height && left + k >= 0 && left + k < p->width)
                            sum += (x[((top + r) * p->width + left + k) * p->channels + c] - p->zero)
                                   * p->weights[(r * p->columns + k) * p->channels + c];
                *y++ = net_requantized(sum, p->factors[c], p->out_zero);
            }
}
#endif

NET_ALONE static void net_depthwise(const struct net_depthwise *p, const uint8_t *x, uint8_t *y)
{
    const int32_t channels = p->channels, step = p->width * channels, w_step = p->columns * channels;
    int32_t row, column, count, c;
#if NET_DEPTHWISE_FEW
    if (channels < 4) {
        net_depthwise_few(p, x, y);
        return;
    }
#endif
    for (c = 0; c < channels; c += 4) {
        const int32_t channel = net_block(c, channels);
        struct net_run run;
#if NET_PAIRS
        uint32_t pairs[2 * NET_TAPS];
        net_pairs(p, channel, pairs);
#endif
        run.p = p;
        run.y = y + channel;
        run.channel = channel;
        for (row = 0; row < p->out_height; row++)
            for (column = 0; column < p->out_width; column += count) {
                const int32_t top = row * p->stride - p->pad_rows, left = column * p->stride - p->pad_columns;
                const int32_t first_row = top < 0 ? -top : 0, first = left < 0 ? -left : 0;
                const int32_t rows = (top + p->rows > p->height ? p->height - top : p->rows) - first_row;
                const int32_t columns = (left + p->columns > p->width ? p->width - left : p->columns) - first;
                const int8_t *w = p->weights + first_row * w_step + first * channels + channel;
                count = 1;
                if (columns == p->columns) {
                    const int32_t places = (p->width - columns - left) / p->stride + 1, most = p->out_width - column;
                    count = places < most ? places : most;
                }
                net_starts(p, channel, w, rows, columns, run.starts);
                run.x = x + (top + first_row) * step + (left + first) * channels + channel;
                run.rows = rows;
                run.wide = columns * channels;
                run.x_skip = step - run.wide;
#if NET_PAIRS
                run.w = pairs + 2 * (first_row * p->columns + first);
                run.w_skip = 2 * (p->columns - columns);
#else
                run.w = w;
                run.w_skip = w_step - run.wide;
#endif
                run.count = count;
                net_depthwise_four(&run);
            }
    }
}

#endif

//@ max_pool
/* Largest value under a window, by channel; places outside of the input do not count. */
struct net_max_pool {
    int32_t height, width, channels, out_height, out_width, rows, columns, stride, pad_rows, pad_columns;
};

static void net_max_pool(const struct net_max_pool *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const int32_t channels = p->channels;
    int32_t row, column, c, r, k;
    for (row = 0; row < p->out_height; row++)
        for (column = 0; column < p->out_width; column++, y += channels) {
            const int32_t top = row * p->stride - p->pad_rows, left = column * p->stride - p->pad_columns;
            uint8_t kept = 0; /* of what y holds: nothing at first */
            for (r = top < 0 ? 0 : top; r < top + p->rows && r < p->height; r++)
                for (k = left < 0 ? 0 : left; k < left + p->columns && k < p->width; k++) {
                    const uint8_t *from = x + (r * p->width + k) * channels;
                    for (c = 0; c < channels; c++) {
                        const uint8_t most = y[c] & kept;
                        y[c] = from[c] > most ? from[c] : most;
                    }
                    kept = 255;
                }
        }
}

//@ mean
/* Mean over all places, by channel. */
struct net_mean {
    int32_t places, channels, zero, out_zero;
    float factor; /* input scale / (output scale * places) */
};

static void net_mean(const struct net_mean *p, const uint8_t *x, uint8_t *y)
{
    int32_t c, n, k;
    for (c = 0; c < p->channels; c += 16) {
        const int32_t count = p->channels - c < 16 ? p->channels - c : 16;
        int32_t sums[16];
        for (k = 0; k < 16; k++)
            sums[k] = -p->zero * p->places;
        for (n = 0; n < p->places; n++) {
            const uint8_t *from = x + n * p->channels + c;
            if (count == 16)
                for (k = 0; k < 16; k++)
                    sums[k] += from[k];
            else
                for (k = 0; k < count; k++)
                    sums[k] += from[k];
        }
        for (k = 0; k < count; k++)
            y[c + k] = net_requantized(sums[k], p->factor, p->out_zero);
    }
}

//@ lookup
/* A function of one byte, as a table of 256: sigmoids, hard and soft swish. x may be y. */
static void net_lookup(const uint8_t *table, int32_t count, const uint8_t *x, uint8_t *y)
{
    int32_t n;
    for (n = 0; n < count; n++)
        y[n] = table[x[n]];
}

//@ add
/* Sum of two feature maps, in whole numbers: (a * factor_a + b * factor_b + offset) / 2^shift - base,
   rounded down, and where a half is met to even if `ties` is 2^shift - 1. All 65,536 pairs of bytes
   were compared with ONNX Runtime's arithmetic when this file was written. a or b may be y. */
struct net_add {
    int32_t count;
    uint32_t factor_a, factor_b, offset, ties;
    int32_t shift, base;
};

static void net_add(const struct net_add *p, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    const uint32_t factor_a = p->factor_a, factor_b = p->factor_b, offset = p->offset, ties = p->ties;
    const int32_t shift = p->shift, base = p->base, count = p->count;
    int32_t n;
    for (n = 0; n < count; n++) {
        const uint32_t sum = a[n] * factor_a + b[n] * factor_b + offset;
        const uint32_t whole = sum >> shift;
        y[n] = net_saturated((int32_t)(whole - ((sum & ties) == 0 ? whole & 1 : 0)) - base);
    }
}

//@ add_exact
/* Sum of two feature maps: halves are met so often that whole numbers do not do. Products of 8 and 24
   bits are exact in double, so each conversion to float is the one rounding of a fused addition. */
struct net_add_exact {
    int32_t count;
    float factor_a, factor_b, offset;
};

static void net_add_exact(const struct net_add_exact *p, const uint8_t *a, const uint8_t *b, uint8_t *y)
{
    int32_t n;
    for (n = 0; n < p->count; n++) {
        const float part = (float)((double)b[n] * (double)p->factor_b + (double)p->offset);
        y[n] = net_saturated(net_nearest((float)((double)a[n] * (double)p->factor_a + (double)part)));
    }
}

//@ mul
/* Product of a feature map and a gate, which has a value for each place and channel, or for each
   channel only. The zero point is added before rounding. x may be y. */
struct net_mul {
    int32_t places, channels, zero, gate_zero, gate_step; /* step: channels, or 0 */
    float factor, out_zero; /* factor: input scale * gate scale / output scale */
};

static void net_mul(const struct net_mul *p, const uint8_t *x, const uint8_t *gate, uint8_t *y)
{
    int32_t n, c;
    for (n = 0; n < p->places; n++, x += p->channels, y += p->channels, gate += p->gate_step) {
        c = 0;
#if NET_LANES == 16
        for (; c + 16 <= p->channels; c += 16) {
            const __m512i a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(x + c)));
            const __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(gate + c)));
            const __m512i sum = _mm512_mullo_epi32(_mm512_sub_epi32(a, _mm512_set1_epi32(p->zero)),
                                                   _mm512_sub_epi32(b, _mm512_set1_epi32(p->gate_zero)));
            __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(p->factor));
            __asm__("" : "+v"(product)); /* no fusion with the sum */
            product = _mm512_add_ps(product, _mm512_set1_ps(p->out_zero));
            product = _mm512_max_ps(_mm512_min_ps(product, _mm512_set1_ps(255.0f)), _mm512_setzero_ps());
            _mm_storeu_si128((__m128i *)(void *)(y + c), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(product)));
        }
#elif NET_LANES == 8
        for (; c + 8 <= p->channels; c += 8) {
            const __m256i a = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(x + c)));
            const __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(gate + c)));
            const __m256i sum = _mm256_mullo_epi32(_mm256_sub_epi32(a, _mm256_set1_epi32(p->zero)),
                                                   _mm256_sub_epi32(b, _mm256_set1_epi32(p->gate_zero)));
            __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(p->factor));
            __m256i whole;
            __m128i words;
            __asm__("" : "+x"(product)); /* no fusion with the sum */
            product = _mm256_add_ps(product, _mm256_set1_ps(p->out_zero));
            product = _mm256_max_ps(_mm256_min_ps(product, _mm256_set1_ps(255.0f)), _mm256_setzero_ps());
            whole = _mm256_cvtps_epi32(product);
            words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
            _mm_storel_epi64((__m128i *)(void *)(y + c), _mm_packus_epi16(words, words));
        }
#endif
        for (; c < p->channels; c++) {
            /* Through memory, so that no compiler fuses the product and the sum into one rounding. */
            volatile float product = (float)((x[c] - p->zero) * (gate[c] - p->gate_zero)) * p->factor;
            y[c] = net_saturated(net_nearest(product + p->out_zero));
        }
    }
}

//@ quantize
/* Measured values as bytes: (value - offset) / step, rounded, + 128, a channel each. */
static void net_quantize(const NET_INPUT *values, int32_t places, int32_t channels, const float *offsets, const float *steps, uint8_t *y)
{
    int32_t n, c;
    for (n = 0; n < places; n++, values += channels, y += channels)
        for (c = 0; c < channels; c++) {
            float q = ((float)values[c] - offsets[c]) / steps[c];
            q = !(q > -128.0f) ? -128.0f : q > 127.0f ? 127.0f : q; /* what is no number becomes 0 */
            y[c] = (uint8_t)(net_nearest(q) + 128);
        }
}

//@ log_mel
/* Features of sound: for each frame a Hann window, the power spectrum, sums of it under triangles, and
   their logarithms in steps. Sums of float products are never fused, and logarithms are computed in
   whole numbers, so that features are the same on all processors. */

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize ("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif

struct net_log_mel {
    int32_t frames, frame, hop, mels, zero; /* a frame has a power of two of samples */
    float step;
    const float *cosines;  /* cos(2 pi n / frame), n from 0 to frame / 4 */
    const float *lines;    /* of each triangle: slope and value at 0 of its rising, then its falling side */
    const uint16_t *spans; /* of each triangle: the first frequency under it, and the one behind the last */
};

/* Numbers in the arena, which has any alignment. */
static inline float net_get(const uint8_t *at)
{
    union { uint32_t bits; float real; } x;
#if NET_UNALIGNED
    __builtin_memcpy(&x, at, 4);
#else
    x.bits = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
#endif
    return x.real;
}

static inline void net_put(uint8_t *at, float value)
{
    union { float real; uint32_t bits; } x;
    x.real = value;
#if NET_UNALIGNED
    __builtin_memcpy(at, &x, 4);
#else
    at[0] = (uint8_t)x.bits;
    at[1] = (uint8_t)(x.bits >> 8);
    at[2] = (uint8_t)(x.bits >> 16);
    at[3] = (uint8_t)(x.bits >> 24);
#endif
}

/* cos and sin of 2 pi n / frame, n from 0 to frame / 2. */
static inline float net_cosine(const struct net_log_mel *p, int32_t n)
{
    const int32_t quarter = p->frame / 4;
    return n <= quarter ? p->cosines[n] : -p->cosines[2 * quarter - n];
}

static inline float net_sine(const struct net_log_mel *p, int32_t n)
{
    const int32_t quarter = p->frame / 4;
    return p->cosines[n <= quarter ? quarter - n : n - quarter];
}

static inline float net_windowed(const struct net_log_mel *p, const int16_t *samples, int32_t n)
{
    const float turn = net_cosine(p, n <= p->frame / 2 ? n : p->frame - n);
    return (float)samples[n] * (0.5f - 0.5f * turn);
}

/* ln(x) * 2^24 of a number from 1 on: the exponent times ln 2, and a polynomial of the digits in whole
   numbers. The error is below 7e-8. */
static int32_t net_ln(float x)
{
    static const uint32_t terms[] = {3496510, 21375151, 61272219, 113969799, 164409878,
                                     211292175, 267947536, 357878193, 536869881, 1073741819};
    union { float real; uint32_t bits; } of;
    uint32_t part, power, y, n;
    of.real = x;
    power = (of.bits >> 23) - 127;
    part = (of.bits & 0x7FFFFF) << 7;
    y = terms[0];
    for (n = 1; n < sizeof terms / sizeof *terms; n++)
        y = terms[n] - (uint32_t)((uint64_t)y * part >> 30);
    y = (uint32_t)((uint64_t)y * part >> 30);
    return (int32_t)((((uint64_t)power * 2977044472u >> 2) + y + 32) >> 6);
}

/* The power spectrum of a frame, in place of a transform of half its length: that of frequency n is
   number 2 n, the last one number 1. */
static void net_spectrum(const struct net_log_mel *p, const int16_t *samples, uint8_t *x)
{
    const int32_t half = p->frame / 2;
    int32_t n, k, at, bit, size;
    float re, im;
    for (n = 0, at = 0; n < half; n++) { /* even samples are real, odd ones imaginary */
        net_put(x + 8 * at, net_windowed(p, samples, 2 * n));
        net_put(x + 8 * at + 4, net_windowed(p, samples, 2 * n + 1));
        for (bit = half >> 1; at & bit; bit >>= 1)
            at ^= bit;
        at |= bit;
    }
    for (size = 1; size < half; size *= 2)
        for (n = 0; n < size; n++) {
            const float c = net_cosine(p, n * (half / size)), s = net_sine(p, n * (half / size));
            for (k = n; k < half; k += 2 * size) {
                uint8_t *const a = x + 8 * k, *const b = a + 8 * size;
                const float bre = net_get(b), bim = net_get(b + 4);
                const float tre = bre * c + bim * s, tim = bim * c - bre * s;
                re = net_get(a);
                im = net_get(a + 4);
                net_put(a, re + tre);
                net_put(a + 4, im + tim);
                net_put(b, re - tre);
                net_put(b + 4, im - tim);
            }
        }
    re = net_get(x);
    im = net_get(x + 4);
    net_put(x, (re + im) * (re + im));
    net_put(x + 4, (re - im) * (re - im));
    for (n = 1; n <= half / 2; n++) {
        uint8_t *const a = x + 8 * n, *const b = x + 8 * (half - n);
        const float are = net_get(a), aim = net_get(a + 4), bre = net_get(b), bim = net_get(b + 4);
        const float ere = 0.5f * (are + bre), eim = 0.5f * (aim - bim); /* of the even samples */
        const float ore = 0.5f * (aim + bim), oim = 0.5f * (bre - are); /* of the odd ones */
        const float c = net_cosine(p, n), s = net_sine(p, n);
        const float tre = ore * c + oim * s, tim = oim * c - ore * s;
        net_put(b, (ere - tre) * (ere - tre) + (eim - tim) * (eim - tim));
        net_put(a, (ere + tre) * (ere + tre) + (eim + tim) * (eim + tim));
    }
}

/* ln(1 + power under triangle m) * 2^24. */
static int32_t net_band_of(const struct net_log_mel *p, const uint8_t *x, int32_t m)
{
    const float *const line = p->lines + 4 * m;
    const int32_t half = p->frame / 2, end = p->spans[2 * m + 1];
    float sum = 0.0f;
    int32_t n;
    for (n = p->spans[2 * m]; n < end; n++) {
        const float up = (float)n * line[0] + line[1], down = (float)n * line[2] + line[3];
        sum += (up < down ? up : down) * net_get(n < half ? x + 8 * n : x + 4);
    }
    return net_ln(sum + 1.0f);
}

static inline uint8_t net_feature(const struct net_log_mel *p, int32_t value)
{
    return net_saturated(net_nearest((float)value * (1.0f / 16777216.0f) / p->step) + p->zero);
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

//@ features
/* Bytes of a frame; x is 4 bytes a sample of it. */
static void net_frame_bands(const struct net_log_mel *p, const int16_t *samples, uint8_t *x, uint8_t *y)
{
    int32_t m;
    net_spectrum(p, samples, x);
    for (m = 0; m < p->mels; m++)
        y[m] = net_feature(p, net_band_of(p, x, m));
}

/* Features of a window of samples. */
static void net_features(const struct net_log_mel *p, const int16_t *samples, uint8_t *x, uint8_t *y)
{
    int32_t n;
    for (n = 0; n < p->frames; n++, samples += p->hop, y += p->mels)
        net_frame_bands(p, samples, x, y);
}

/* Features of frames in a ring, from frame `oldest` on. */
static void net_ring_features(const struct net_log_mel *p, const uint8_t *bands, int32_t oldest, uint8_t *y)
{
    const int32_t all = p->frames * p->mels;
    int32_t n, at = oldest * p->mels;
    for (n = 0; n < all; n++, at++)
        y[n] = bands[at < all ? at : at - all];
}

//@ features_centred
/* A mean of whole numbers from 0 on, without 64-bit division. */
struct net_average {
    int32_t value, rest;
};

static inline void net_count(struct net_average *mean, int32_t value, int32_t count)
{
    mean->value += value / count;
    mean->rest += value % count;
    if (mean->rest >= count) {
        mean->rest -= count;
        mean->value++;
    }
}

/* Logarithms of a frame; x is 4 bytes a sample of it. */
static void net_frame_bands(const struct net_log_mel *p, const int16_t *samples, uint8_t *x, int32_t *y)
{
    int32_t m;
    net_spectrum(p, samples, x);
    for (m = 0; m < p->mels; m++)
        y[m] = net_band_of(p, x, m);
}

/* Features of a window of samples, less the mean of each triangle over the window; x is 4 bytes a
   sample of a frame, then 3 a feature, whose logarithm has its last byte in y until then. */
static void net_features_centred(const struct net_log_mel *p, const int16_t *samples, uint8_t *x, uint8_t *y)
{
    uint8_t *const high = x + 4 * p->frame;
    const int32_t mels = p->mels, frames = p->frames;
    int32_t n, m;
    for (n = 0; n < frames; n++, samples += p->hop) {
        net_spectrum(p, samples, x);
        for (m = 0; m < mels; m++) {
            const uint32_t value = (uint32_t)net_band_of(p, x, m);
            const int32_t at = n * mels + m;
            y[at] = (uint8_t)value;
            high[3 * at] = (uint8_t)(value >> 8);
            high[3 * at + 1] = (uint8_t)(value >> 16);
            high[3 * at + 2] = (uint8_t)(value >> 24);
        }
    }
    for (m = 0; m < mels; m++) {
        struct net_average mean = {0, 0};
        int32_t at;
        for (n = 0, at = m; n < 2 * frames; n++, at += mels) {
            uint8_t *const v = high + 3 * (n < frames ? at : at - frames * mels);
            uint8_t *const low = y + (n < frames ? at : at - frames * mels);
            const int32_t value = (int32_t)(*low | (uint32_t)v[0] << 8 | (uint32_t)v[1] << 16 | (uint32_t)v[2] << 24);
            if (n < frames)
                net_count(&mean, value, frames);
            else
                *low = net_feature(p, value - mean.value);
        }
    }
}

/* Features of frames in a ring, from frame `oldest` on. */
static void net_ring_features(const struct net_log_mel *p, const int32_t *bands, int32_t oldest, uint8_t *y)
{
    const int32_t mels = p->mels, frames = p->frames;
    int32_t n, m;
    for (m = 0; m < mels; m++) {
        struct net_average mean = {0, 0};
        for (n = 0; n < frames; n++)
            net_count(&mean, bands[n * mels + m], frames);
        for (n = 0; n < frames; n++) {
            const int32_t at = oldest + n < frames ? oldest + n : oldest + n - frames;
            y[n * mels + m] = net_feature(p, bands[at * mels + m] - mean.value);
        }
    }
}

//@ softmax
/* exp(x) * 2^30 for x from -21 to 0, in whole numbers, so that it is the same everywhere: with
   -x / ln 2 = whole + part it is 2^(1 - part) / 2^(whole + 1). Relative error below 3e-7. */
static uint32_t net_exp(float x)
{
    const uint32_t power = (uint32_t)(x * -24204406.0f), part = (1u << 30) - ((power & 0xFFFFFF) << 6);
    uint64_t y = 2014590;
    y = (y * part >> 30) + 9655714;
    y = (y * part >> 30) + 59940139;
    y = (y * part >> 30) + 257863963;
    y = (y * part >> 30) + 744267332;
    y = (y * part >> 30) + 1073741746;
    return (uint32_t)y >> ((power >> 24) + 1);
}

/* Probabilities in place of logits. */
static void net_softmax(float *values, int32_t count)
{
    volatile float *logits = values; /* no fusion of what computed them with the difference */
    float top = logits[0], sum = 0;
    int32_t n;
    for (n = 1; n < count; n++)
        top = logits[n] > top ? logits[n] : top;
    for (n = 0; n < count; n++) {
        const float x = logits[n] - top;
        values[n] = x < -21.0f ? 0.0f : (float)net_exp(x);
        sum += values[n];
    }
    for (n = 0; n < count; n++)
        values[n] /= sum;
}
