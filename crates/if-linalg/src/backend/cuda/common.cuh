// What all kernels share. `REAL` is float or double, given when they are compiled.
//
// Every kernel has its twin in `cpu*.rs`, which says what it computes; here is only how. Sums are taken in an order
// that depends on shapes alone, never on which thread came first: nothing is added atomically.

typedef REAL real;
typedef long long i64;

// Row-major; `stride` numbers from row to row.
struct Matrix {
    real *data;
    i64 rows, cols, stride;
};

__device__ inline real *row(Matrix m, i64 i) { return m.data + i * m.stride; }

// Position `at` of a matrix with `cols` columns. Division of 64 bits costs ten times that of 32.
__device__ inline void split(i64 at, i64 cols, i64 &i, i64 &j) {
    if (at <= 0xffffffffLL && cols <= 0xffffffffLL) {
        unsigned a = (unsigned)at, c = (unsigned)cols;
        i = a / c;
        j = a % c;
    } else {
        i = at / cols;
        j = at % cols;
    }
}

// Every element (i, j) of the matrix `m`, whatever the size of the grid.
#define EACH(m, i, j)                                                                                        \
    for (i64 at_ = blockIdx.x * (i64)blockDim.x + threadIdx.x, i = 0, j = 0;                                 \
         at_ < (m).rows * (m).cols && (split(at_, (m).cols, i, j), true);                                    \
         at_ += gridDim.x * (i64)blockDim.x)

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
