/* Products of a measured step for one processor: rows of J, and their Gram matrix. See _native.py, which compiles this.
   Every entry is added up in one order, whatever the number of threads. */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ACCUMULATORS 24
#define SIDE 5
#elif defined(__AVX2__)
#define LANES 8
#define ACCUMULATORS 12
#define SIDE 3
#else
#define LANES 4
#define ACCUMULATORS 12
#define SIDE 3
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 32")

typedef int64_t number;
typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float loose_half __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
typedef double wide __attribute__((vector_size(4 * LANES)));
typedef int32_t places __attribute__((vector_size(4 * LANES)));

int64_t lanes(void) { return LANES; }

INLINE places counted(void) {
  places lane;
  UNROLLED for (int i = 0; i < LANES; i++) lane[i] = i;
  return lane;
}

/* -- rows of J: sums of outer products over positions ------------------------------------------------------------ */

/* Positions lie in lines; how far apart lines, and positions of a line, are in either factor. */
typedef struct {
  number lines, length, left_line, left, right_line, right;
} positions;

/* out[i][j] = sum over positions of left[i] * right[j], for m rows and n vectors: all of it stays in registers. */
INLINE void tile(const int m, const int n, const float *left, const float *right, const positions *at, float *out,
                 number pitch) {
  vector sum[ACCUMULATORS];
  UNROLLED for (int i = 0; i < m * n; i++) sum[i] = (vector){0};
  for (number line = 0; line < at->lines; line++) {
    const float *a = left + line * at->left_line, *b = right + line * at->right_line;
    for (number place = 0; place < at->length; place++, a += at->left, b += at->right) {
      vector other[4];
      UNROLLED for (int j = 0; j < n; j++) other[j] = *(const loose *)(b + j * LANES);
      UNROLLED for (int i = 0; i < m; i++)
        UNROLLED for (int j = 0; j < n; j++) sum[i * n + j] += a[i] * other[j];
    }
  }
  UNROLLED for (int i = 0; i < m; i++)
    UNROLLED for (int j = 0; j < n; j++) *(loose *)(out + i * pitch + j * LANES) = sum[i * n + j];
}

INLINE void strip(const int n, number rows, const float *left, const float *right, const positions *at, float *out,
                  number pitch) {
  number i = 0;
#define TILES(m) \
  for (; m >= 1 && i + (m) <= rows; i += (m)) tile(m, n, left + i, right, at, out + i * pitch, pitch);
  TILES(ACCUMULATORS / n)
  TILES(ACCUMULATORS / n / 2)
  TILES(ACCUMULATORS / n / 4)
  TILES(1)
#undef TILES
}

/* All of out, (rows, width); width is at least LANES. The last vector may cover a part of the one before again. */
static void product(number rows, number width, const float *left, const float *right, const positions *at, float *out) {
  for (number j = 0; j < width;) {
    const number open = width - j;
    if (open >= 4 * LANES) {
      strip(4, rows, left, right + j, at, out + j, width);
      j += 4 * LANES;
    } else if (open >= 2 * LANES) {
      strip(2, rows, left, right + j, at, out + j, width);
      j += 2 * LANES;
    } else {
      j = open < LANES ? width - LANES : j;
      strip(1, rows, left, right + j, at, out + j, width);
      j += LANES;
    }
  }
}

/* A tensor of each sample: how far apart samples and positions are. The last dimension lies together. */
typedef struct {
  number sample, position;
} steps;

/* out (batch, rows, width) = sum over positions of left (batch, positions, rows) x right (batch, positions, width). */
void outer(number batch, number count, number rows, number width, const float *left, steps of_left, const float *right,
           steps of_right, float *out, number threads) {
  const positions at = {1, count, 0, of_left.position, 0, of_right.position};
#pragma omp parallel for num_threads(threads)
  for (number b = 0; b < batch; b++)
    product(rows, width, left + b * of_left.sample, right + b * of_right.sample, &at, out + b * rows * width);
}

/* Transposes LANES vectors. */
INLINE void transpose(vector *r) {
  const places lane = counted();
  UNROLLED for (int s = 1; s < LANES; s *= 2) {
    const places odd = (lane & s) != 0;
    const places low = lane + (odd & (LANES - s)), high = lane + (~odd & s) + (odd & LANES);
    UNROLLED for (int i = 0; i < LANES; i++) {
      if (i & s) continue;
      const vector one = r[i], other = r[i + s];
      r[i] = __builtin_shuffle(one, other, low);
      r[i + s] = __builtin_shuffle(one, other, high);
    }
  }
}

/* An image (channels, high, across) of each sample: how far apart samples, channels and pixels are. */
typedef struct {
  number channels, high, across, sample, channel, pixel;
} image;

/* Copies one image with its channels last, a line of pixels every ``line`` elements. */
static void channels_last(const image *of, const float *from, float *to, number line) {
  const number pixels = of->high * of->across, channels = of->channels;
  if (of->channel == 1) {
    for (number p = 0; p < pixels; p++)
      memcpy(to + p / of->across * line + p % of->across * channels, from + p * of->pixel, channels * sizeof(float));
    return;
  }
  for (number p = 0; p < pixels; p += LANES)
    for (number c = 0; c < channels; c += LANES) {
      const number last_pixel = p + LANES < pixels ? p + LANES : pixels;
      const number last_channel = c + LANES < channels ? c + LANES : channels;
      if (of->pixel == 1 && last_pixel - p == LANES && last_channel - c == LANES) {
        vector r[LANES];
        UNROLLED for (int i = 0; i < LANES; i++) r[i] = *(const loose *)(from + (c + i) * of->channel + p);
        transpose(r);
        UNROLLED for (int i = 0; i < LANES; i++)
          *(loose *)(to + (p + i) / of->across * line + (p + i) % of->across * channels + c) = r[i];
      } else
        for (number i = p; i < last_pixel; i++)
          for (number k = c; k < last_channel; k++)
            to[i / of->across * line + i % of->across * channels + k] = from[k * of->channel + i * of->pixel];
    }
}

/* What a convolution does in space: kernel, stride and padding in front, and the padded size; first down, then across. */
typedef struct {
  number kernel[2], stride[2], before[2], padded[2];
} geometry;

/* out (batch, kernel, kernel, channels, filters): J of a convolution with input x and output gradient g. ``scratch`` is
   zero and has a padded image and a gradient for each thread. */
void convolved(number batch, const image *of_x, const float *x, const image *of_g, const float *g, const geometry *how,
               float *scratch, float *out, number threads) {
  const number channels = of_x->channels, filters = of_g->channels, spots = of_g->high * of_g->across;
  const number line = how->padded[1] * channels, padded = how->padded[0] * line;
  const number row = how->kernel[1] * channels, each = how->kernel[0] * row * filters;
  const int as_it_is = of_g->channel == 1;
  const number filter_step = as_it_is ? of_g->pixel : filters;
  const positions at = {of_g->high, of_g->across, how->stride[0] * line, how->stride[1] * channels,
                        of_g->across * filter_step, filter_step};
#pragma omp parallel for num_threads(threads)
  for (number b = 0; b < batch; b++) {
    float *input = scratch + omp_get_thread_num() * (padded + spots * filters), *turned = input + padded;
    const float *gradient = g + b * of_g->sample;
    channels_last(of_x, x + b * of_x->sample, input + how->before[0] * line + how->before[1] * channels, line);
    if (!as_it_is) {
      channels_last(of_g, gradient, turned, of_g->across * filters);
      gradient = turned;
    }
    for (number k = 0; k < how->kernel[0]; k++)
      product(row, filters, input + k * line, gradient, &at, out + b * each + k * row * filters);
  }
}

/* -- the Gram matrix of rows ------------------------------------------------------------------------------------- */

/* Columns lo to hi of SIDE rows times as many others: in float, each lane for itself and lanes in pairs ... */
INLINE void corner_single(const float *const *a, const float *const *b, number lo, number hi, double *out) {
  vector sum[SIDE * SIDE];
  UNROLLED for (int i = 0; i < SIDE * SIDE; i++) sum[i] = (vector){0};
  for (number k = lo; k < hi; k += LANES) {
    vector left[SIDE];
    UNROLLED for (int i = 0; i < SIDE; i++) left[i] = *(const loose *)(a[i] + k);
    UNROLLED for (int j = 0; j < SIDE; j++) {
      const vector right = *(const loose *)(b[j] + k);
      UNROLLED for (int i = 0; i < SIDE; i++) sum[i * SIDE + j] += left[i] * right;
    }
  }
  const places lane = counted();
  UNROLLED for (int i = 0; i < SIDE * SIDE; i++) {
    vector total = sum[i];
    UNROLLED for (int s = LANES / 2; s; s /= 2) total += __builtin_shuffle(total, lane ^ s);
    out[i] = total[0];
  }
}

/* ... or in double, which holds a product of two floats exactly. */
INLINE void corner_double(const float *const *a, const float *const *b, number lo, number hi, double *out) {
  wide sum[SIDE * SIDE];
  UNROLLED for (int i = 0; i < SIDE * SIDE; i++) sum[i] = (wide){0};
  for (number k = lo; k < hi; k += LANES / 2) {
    wide left[SIDE];
    UNROLLED for (int i = 0; i < SIDE; i++) left[i] = __builtin_convertvector(*(const loose_half *)(a[i] + k), wide);
    UNROLLED for (int j = 0; j < SIDE; j++) {
      const wide right = __builtin_convertvector(*(const loose_half *)(b[j] + k), wide);
      UNROLLED for (int i = 0; i < SIDE; i++) sum[i * SIDE + j] += left[i] * right;
    }
  }
  UNROLLED for (int i = 0; i < SIDE * SIDE; i++) {
    out[i] = 0;
    UNROLLED for (int lane = 0; lane < LANES / 2; lane++) out[i] += sum[i][lane];
  }
}

/* Adds rows (batch, columns) times their transpose to the upper triangle of out (batch, batch); what lies below the
   diagonal within a corner is added to as well. ``chunk`` columns, a multiple of LANES, are added up at a time. */
INLINE void add_gram(const int single, number batch, number columns, const float *rows, number pitch, number chunk,
                     double *out, number threads) {
  const number sides = (batch + SIDE - 1) / SIDE, whole = columns / LANES * LANES;
#pragma omp parallel num_threads(threads)
  for (number lo = 0; lo == 0 || lo < whole; lo += chunk) {
    const number hi = lo + chunk < whole ? lo + chunk : whole;
#pragma omp for schedule(static, 1) nowait
    for (number t = 0; t < sides; t++)
      for (number u = t; u < sides; u++) {
        const float *a[SIDE], *b[SIDE];
        double found[SIDE * SIDE];
        for (number i = 0; i < SIDE; i++) {
          const number row = t * SIDE + i, column = u * SIDE + i;
          a[i] = rows + (row < batch ? row : batch - 1) * pitch;
          b[i] = rows + (column < batch ? column : batch - 1) * pitch;
        }
        if (single)
          corner_single(a, b, lo, hi, found);
        else
          corner_double(a, b, lo, hi, found);
        for (number i = 0; i < SIDE && t * SIDE + i < batch; i++)
          for (number j = 0; j < SIDE && u * SIDE + j < batch; j++) {
            double value = found[i * SIDE + j];
            for (number k = hi == whole ? whole : columns; k < columns; k++) value += (double)a[i][k] * b[j][k];
            out[(t * SIDE + i) * batch + u * SIDE + j] += value;
          }
      }
  }
}

void gram(number single, number batch, number columns, const float *rows, number pitch, number chunk, double *out,
          number threads) {
  if (single)
    add_gram(1, batch, columns, rows, pitch, chunk, out, threads);
  else
    add_gram(0, batch, columns, rows, pitch, chunk, out, threads);
}
