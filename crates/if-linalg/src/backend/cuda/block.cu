// Vectors and blocks of vectors: twins in cpu.rs, of steps of solvers in cpu_steps.rs.

extern "C" __global__ void copy_rows(Matrix x, Matrix y) {
    each(y, [=](i64 i, i64 j) { return row(x, i)[j]; });
}

extern "C" __global__ void fill(real value, Matrix y) {
    each(y, [=](i64, i64) { return value; });
}

// 64 signs are the bits of one mixed counter, as in signs.rs.
extern "C" __global__ void signs(unsigned long long key, unsigned long long first, real scale, Matrix out) {
    each(out, [=](i64 i, i64 j) {
        unsigned long long number = first + i * out.cols + j;
        unsigned long long z = key + (number / 64 + 1) * 0x9e3779b97f4a7c15ULL;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        z ^= z >> 31;
        return z >> (number % 64) & 1 ? -scale : scale;
    });
}

extern "C" __global__ void round_off(const double *x, i64 len, real *y) {
    for (i64 at = blockIdx.x * (i64)blockDim.x + threadIdx.x; at < len; at += gridDim.x * (i64)blockDim.x) {
        y[at] = (real)x[at];
    }
}

extern "C" __global__ void gather_rows(Matrix x, const i64 *indices, Matrix y) {
    each(y, [=](i64 i, i64 j) { return row(x, indices[i])[j]; });
}

// Unsigned numbers in the order of real ones: NaN below everything, zeros of both signs equal.
__device__ inline unsigned long long rank(real value) {
    if (value != value) return 0;
    if (value == 0) value = 0;
    if (sizeof(real) == 4) {
        const int bits = __float_as_int((float)value);
        return (unsigned long long)(bits < 0 ? ~bits : bits | (1u << 31)) << 32;
    }
    const long long bits = __double_as_longlong((double)value);
    return bits < 0 ? ~bits : bits | (1ULL << 63);
}

// How many threads of the block before this one have the flag; `total` of all 256. `warps` is shared.
__device__ inline int place(bool flag, int *warps, int &total) {
    const unsigned lane = threadIdx.x & 31, flags = __ballot_sync(0xffffffffu, flag);
    __syncthreads();
    if (lane == 0) warps[threadIdx.x >> 5] = __popc(flags);
    __syncthreads();
    int before = __popc(flags & ((1u << lane) - 1));
    total = 0;
    for (int warp = 0; warp < 8; warp++) {
        if (warp < (threadIdx.x >> 5)) before += warps[warp];
        total += warps[warp];
    }
    return before;
}

// One block for each row. The rank of the k-th largest number is found eight bits at a time, by counting; then all that
// rank above it are written, and the first of those that are equal to it: k columns and numbers a row, in no order.
extern "C" __global__ void top_k(Matrix x, i64 k, i64 *columns, real *values) {
    __shared__ unsigned counts[256];
    __shared__ int warps[8], digit;
    __shared__ i64 left;
    const real *numbers = row(x, blockIdx.x);
    columns += blockIdx.x * k;
    values += blockIdx.x * k;
    unsigned long long found = 0, known = 0;
    if (threadIdx.x == 0) left = k;
    for (int shift = 56; shift >= (sizeof(real) == 4 ? 32 : 0); shift -= 8) {
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (i64 j = threadIdx.x; j < x.cols; j += blockDim.x) {
            unsigned long long r = rank(numbers[j]);
            if ((r & known) == found) atomicAdd(&counts[r >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            digit = 255;
            for (; counts[digit] < left; digit--) left -= counts[digit];
        }
        __syncthreads();
        found |= (unsigned long long)digit << shift;
        known |= 255ULL << shift;
    }
    const i64 equal = left;
    i64 above_so_far = 0, equal_so_far = 0;
    for (i64 start = 0; start < x.cols; start += blockDim.x) {
        const i64 j = start + threadIdx.x;
        const bool inside = j < x.cols;
        const real value = inside ? numbers[j] : (real)0;
        const unsigned long long r = rank(value);
        int above, same;
        i64 at = above_so_far + place(inside && r > found, warps, above);
        const i64 nth = equal_so_far + place(inside && r == found, warps, same);
        if (r <= found) at = r == found && nth < equal ? k - equal + nth : k;
        if (inside && at < k) {
            columns[at] = j;
            values[at] = value;
        }
        above_so_far += above;
        equal_so_far += same;
    }
}

// y[b][a][c] = x[a][b][c].
extern "C" __global__ void swap_axes(i64 c, Matrix x, Matrix y) {
    const Divisor inner(c);
    each(y, [=](i64 i, i64 j) {
        i64 a, rest;
        inner.split(j, a, rest);
        return row(x, a)[i * c + rest];
    });
}

extern "C" __global__ void axpby(real alpha, Matrix x, real beta, Matrix y) {
    each(y, [=](i64 i, i64 j) {
        real value = alpha * row(x, i)[j];
        return beta == 0 ? value : value + beta * row(y, i)[j];
    });
}

extern "C" __global__ void row_axpby(const double *alpha, Matrix x, const double *beta, Matrix y) {
    each(y, [=](i64 i, i64 j) {
        real b = (real)beta[i], value = (real)alpha[i] * row(x, i)[j];
        return b == 0 ? value : value + b * row(y, i)[j];
    });
}

// One block for `chunk` numbers (blockIdx.x) of one row (blockIdx.y): partial sums go to
// partial[row][first + chunk], of `width` a row.
extern "C" __global__ void dots_partial(Matrix x, Matrix y, i64 chunk, double *partial, i64 first, i64 width) {
    for (i64 i = blockIdx.y; i < x.rows; i += gridDim.y) {
        i64 start = blockIdx.x * chunk, end = min(start + chunk, x.cols);
        double sum = 0.0;
        for (i64 j = start + threadIdx.x; j < end; j += blockDim.x) {
            sum += (double)row(x, i)[j] * (double)row(y, i)[j];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) partial[i * width + first + blockIdx.x] = sum;
    }
}

// out[row] = the sum of partial[row].
extern "C" __global__ void sum_partial(const double *partial, i64 width, double *out) {
    double sum = 0.0;
    for (i64 j = threadIdx.x; j < width; j += blockDim.x) sum += partial[blockIdx.x * width + j];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// The three passes of solvers below are shaped like dots_partial: sums of squares of r, p and x.

// One pass over x, r, p, q. `given` is r.z, the floor and p.q of every row, one after another.
extern "C" __global__ void cg_update(const double *given, Matrix p, Matrix q, Matrix x, Matrix r, i64 chunk,
                                     double *partial, i64 first, i64 width) {
    const double *rz = given, *floor = rz + x.rows, *pq = floor + x.rows;
    for (i64 i = blockIdx.y; i < x.rows; i += gridDim.y) {
        i64 start = blockIdx.x * chunk, end = min(start + chunk, x.cols);
        const bool steps = pq[i] > floor[i];
        const real alpha = (real)(rz[i] / pq[i]);
        double sum = 0.0;
        for (i64 j = start + threadIdx.x; j < end; j += blockDim.x) {
            real residual = row(r, i)[j];
            // Not a step of length 0: p and q may be infinite.
            if (steps) {
                row(x, i)[j] += alpha * row(p, i)[j];
                row(r, i)[j] = residual -= alpha * row(q, i)[j];
            }
            sum += (double)residual * (double)residual;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) partial[i * width + first + blockIdx.x] = sum;
    }
}

// The next directions. `given` as above, `rz` the new r.z.
extern "C" __global__ void cg_direct(const double *given, const double *rz, Matrix z, Matrix p, i64 chunk,
                                     double *partial, i64 first, i64 width) {
    const double *before = given, *floor = before + p.rows, *pq = floor + p.rows;
    for (i64 i = blockIdx.y; i < p.rows; i += gridDim.y) {
        i64 start = blockIdx.x * chunk, end = min(start + chunk, p.cols);
        const bool steps = pq[i] > floor[i];
        const real beta = (real)(rz[i] / before[i]);
        double sum = 0.0;
        for (i64 j = start + threadIdx.x; j < end; j += blockDim.x) {
            real direction = steps ? row(z, i)[j] + beta * row(p, i)[j] : row(z, i)[j];
            row(p, i)[j] = direction;
            sum += (double)direction * (double)direction;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) partial[i * width + first + blockIdx.x] = sum;
    }
}

// `total` gets the new x added to it if it `adds`.
extern "C" __global__ void lissa_step(real step, Matrix b, Matrix ax, Matrix x, int adds, Matrix total, i64 chunk,
                                      double *partial, i64 first, i64 width) {
    for (i64 i = blockIdx.y; i < x.rows; i += gridDim.y) {
        i64 start = blockIdx.x * chunk, end = min(start + chunk, x.cols);
        double sum = 0.0;
        for (i64 j = start + threadIdx.x; j < end; j += blockDim.x) {
            real value = row(x, i)[j] - step * row(ax, i)[j] + step * row(b, i)[j];
            row(x, i)[j] = value;
            if (adds) row(total, i)[j] += value;
            sum += (double)value * (double)value;
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) partial[i * width + first + blockIdx.x] = sum;
    }
}

// out[at] = the sum over parts of parts[part][at].
extern "C" __global__ void sum_parts(const real *parts, i64 count, i64 size, double *out) {
    for (i64 at = blockIdx.x * (i64)blockDim.x + threadIdx.x; at < size; at += gridDim.x * (i64)blockDim.x) {
        double sum = 0.0;
        for (i64 part = 0; part < count; part++) sum += (double)parts[part * size + at];
        out[at] = sum;
    }
}

extern "C" __global__ void adam(real b1, real b2, real rate, real epsilon, Matrix g, Matrix m, Matrix v,
                                Matrix theta) {
    each(theta, [=](i64 i, i64 j) {
        real gradient = row(g, i)[j];
        real mean = b1 * row(m, i)[j] + (1 - b1) * gradient;
        real square = b2 * row(v, i)[j] + (1 - b2) * gradient * gradient;
        row(m, i)[j] = mean;
        row(v, i)[j] = square;
        return row(theta, i)[j] - rate * mean / (sqrt(square) + epsilon);
    });
}

extern "C" __global__ void scale_rows(Matrix weights, Matrix y) {
    const Divisor examples(weights.rows);
    each(y, [=](i64 i, i64 j) { return row(y, i)[j] * row(weights, examples.remainder(i))[0]; });
}

// One warp for each of the groups of each row.
extern "C" __global__ void row_dots(Matrix x, Matrix y, real beta, Matrix out) {
    const Divisor groups(out.cols);
    EACH_ROW(out.rows * out.cols, at, lane) {
        i64 i, g;
        groups.split(at, i, g);
        const real *a = row(x, i) + g * y.cols, *b = row(y, i);
        real sum = 0;
        for (i64 c = lane; c < y.cols; c += 32) sum += a[c] * b[c];
        sum = warp_sum(sum);
        if (lane == 0) {
            real *slot = &row(out, i)[g];
            *slot = beta == 0 ? sum : sum + beta * *slot;
        }
    }
}

// The same where groups are so short that a warp would idle: one thread for each.
extern "C" __global__ void row_dots_short(Matrix x, Matrix y, real beta, Matrix out) {
    each(out, [=](i64 i, i64 g) {
        const real *a = row(x, i) + g * y.cols, *b = row(y, i);
        real sum = 0;
        for (i64 c = 0; c < y.cols; c++) sum += a[c] * b[c];
        return beta == 0 ? sum : sum + beta * row(out, i)[g];
    });
}

extern "C" __global__ void paired_dots(Matrix x, Matrix y, Matrix out) {
    const i64 width = x.cols / out.cols;
    const Divisor groups(out.cols);
    EACH_ROW(out.rows * out.cols, at, lane) {
        i64 i, g;
        groups.split(at, i, g);
        const real *a = row(x, i) + g * width, *b = row(y, i) + g * width;
        real sum = 0;
        for (i64 c = lane; c < width; c += 32) sum += a[c] * b[c];
        sum = warp_sum(sum);
        if (lane == 0) row(out, i)[g] += sum;
    }
}

extern "C" __global__ void paired_products(Matrix x, Matrix y, Matrix out) {
    each(out, [=](i64 i, i64 g) { return row(out, i)[g] + row(x, i)[g] * row(y, i)[g]; });
}

extern "C" __global__ void outer_rows(Matrix x, Matrix y, Matrix out) {
    const Divisor columns(y.cols);
    each(out, [=](i64 i, i64 at) {
        i64 a, b;
        columns.split(at, a, b);
        return row(x, i)[a] * row(y, i)[b];
    });
}
