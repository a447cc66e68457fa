// What all kernels share. `REAL` is float or double, given when they are compiled.
//
// Every kernel has its twin in `cpu*.rs`, which says what it computes; here is only how. Sums are taken in an order
// that depends on shapes alone, never on which thread came first: only integers are added atomically.

typedef REAL real;
typedef long long i64;

// Row-major; `stride` numbers from row to row.
struct Matrix {
    real *data;
    i64 rows, cols, stride;
};

__device__ inline real *row(Matrix m, i64 i) { return m.data + i * m.stride; }

// Division of numbers below 2^31 by one below 2^31, many times: the remainder of a product with its inverse (Granlund &
// Montgomery 1994), a fifth of the instructions. Also made by the host (kernels.rs).
struct Division {
    unsigned by, factor, shift;

    __device__ void split(unsigned at, unsigned &quotient, unsigned &remainder) const {
        quotient = (__umulhi(factor, at) + at) >> shift;
        remainder = at - quotient * by;
    }
};

// The same for any numbers; larger ones are divided as they are.
#define LARGE 0x80000000LL
struct Divisor {
    i64 by;
    Division small;
    bool large;

    __device__ explicit Divisor(i64 by) : by(by), small{(unsigned)by, 0, 0}, large(by >= LARGE) {
        if (large) return;
        small.shift = by > 1 ? 32 - __clz((int)by - 1) : 0;
        small.factor = (unsigned)(((1ULL << 32) * ((1ULL << small.shift) - by)) / by + 1);
    }

    __device__ void split(i64 at, i64 &quotient, i64 &remainder) const {
        if (at < LARGE && !large) {
            unsigned q, r;
            small.split((unsigned)at, q, r);
            quotient = q;
            remainder = r;
        } else {
            quotient = at / by;
            remainder = at % by;
        }
    }

    __device__ i64 remainder(i64 at) const {
        i64 quotient, rest;
        split(at, quotient, rest);
        return rest;
    }
};

// out[i][j] = f(i, j) for every element, whatever the size of the grid. Four at a time, all read before any is
// written: a thread has to have several loads under way for memory to be busy.
template <class F> __device__ inline void each(Matrix out, F f) {
    if (out.cols == 0) return;
    const Divisor cols(out.cols);
    const i64 total = out.rows * out.cols, step = gridDim.x * (i64)blockDim.x;
    i64 at = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    for (; at + 3 * step < total; at += 4 * step) {
        i64 i[4], j[4];
        real value[4];
#pragma unroll
        for (int u = 0; u < 4; u++) {
            cols.split(at + u * step, i[u], j[u]);
            value[u] = f(i[u], j[u]);
        }
#pragma unroll
        for (int u = 0; u < 4; u++) row(out, i[u])[j[u]] = value[u];
    }
    for (; at < total; at += step) {
        i64 i, j;
        cols.split(at, i, j);
        row(out, i)[j] = f(i, j);
    }
}

// Where rows stack several directions of some examples and much depends on the example alone: f(example, j, first, count)
// for every j < cols, with `count` of the directions from `first` on.
#define TOGETHER 8
template <class F> __device__ inline void each_example(i64 cols, i64 examples, i64 directions, F f) {
    if (cols == 0 || examples == 0) return;
    const Divisor by_cols(cols), by_examples(examples);
    const i64 groups = (directions + TOGETHER - 1) / TOGETHER;
    const i64 total = groups * examples * cols, step = gridDim.x * (i64)blockDim.x;
    for (i64 at = blockIdx.x * (i64)blockDim.x + threadIdx.x; at < total; at += step) {
        i64 line, j, group, example;
        by_cols.split(at, line, j);
        by_examples.split(line, group, example);
        f(example, j, group * TOGETHER, (int)min((i64)TOGETHER, directions - group * TOGETHER));
    }
}

// out[i][j] for every element of such rows: f(example, j) returns the function of i that gives it. All are read before
// any is written.
template <class F> __device__ inline void each_direction(Matrix out, i64 examples, F f) {
    const i64 directions = examples == 0 ? 0 : out.rows / examples;
    each_example(out.cols, examples, directions, [=](i64 example, i64 j, i64 first, int count) {
        const auto value_of = f(example, j);
        real value[TOGETHER];
#pragma unroll
        for (int u = 0; u < TOGETHER; u++) {
            if (u < count) value[u] = value_of((first + u) * examples + example);
        }
#pragma unroll
        for (int u = 0; u < TOGETHER; u++) {
            if (u < count) row(out, (first + u) * examples + example)[j] = value[u];
        }
    });
}

// Every row `i` of `rows`, one warp each; `lane` is the thread's place in the warp.
#define EACH_ROW(rows, i, lane)                                                                              \
    const int lane = threadIdx.x & 31;                                                                       \
    for (i64 i = (blockIdx.x * (i64)blockDim.x + threadIdx.x) >> 5; i < (rows);                              \
         i += (gridDim.x * (i64)blockDim.x) >> 5)

template <class T> __device__ inline T warp_sum(T value) {
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ inline real warp_max(real value) {
    for (int step = 16; step > 0; step >>= 1) {
        real other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over a block of 256 threads, for thread 0.
__device__ inline double block_sum(double value) {
    __shared__ double parts[8];
    value = warp_sum(value);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
    __syncthreads();
    double sum = 0.0;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 8; i++) sum += parts[i];
    }
    return sum;
}
