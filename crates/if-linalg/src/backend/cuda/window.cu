// Windows over images, and bags of tokens: twins in cpu_window.rs and cpu_bag.rs. Where the CPU adds up what it
// scatters, every number is gathered by one thread here, in a fixed order.

// By the host (kernels.rs).
struct Window {
    int channels, height, width, kernel_height, kernel_width, stride, padding, down, across;
    Division by_height, by_width, by_stride, by_positions, by_across;
};

extern "C" __global__ void im2col(Window w, Matrix x, Matrix out) {
    const Divisor positions(w.down * w.across), across(w.across);
    const Divisor area(w.kernel_height * w.kernel_width), kernel_width(w.kernel_width);
    each(out, [=](i64 patch, i64 j) {
        i64 image, position, down, right, c, inside_kernel, u, v;
        positions.split(j, image, position);
        across.split(position, down, right);
        area.split(patch, c, inside_kernel);
        kernel_width.split(inside_kernel, u, v);
        int up = (int)down * w.stride + (int)u - w.padding;
        int left = (int)right * w.stride + (int)v - w.padding;
        bool inside = up >= 0 && up < w.height && left >= 0 && left < w.width;
        return inside ? row(x, image)[((int)c * w.height + up) * w.width + left] : (real)0;
    });
}

// Plane, row and column of the pixel `at`.
__device__ inline void split_pixel(const Window &w, i64 at, int &c, int &y, int &x) {
    unsigned line, column, plane, row_of;
    w.by_width.split((unsigned)at, line, column);
    w.by_height.split(line, plane, row_of);
    c = (int)plane;
    y = (int)row_of;
    x = (int)column;
}

// Plane, line and column of the window `at`.
__device__ inline void split_window(const Window &w, i64 at, int &c, int &down, int &right) {
    unsigned plane, position, line, column;
    w.by_positions.split((unsigned)at, plane, position);
    w.by_across.split(position, line, column);
    c = (int)plane;
    down = (int)line;
    right = (int)column;
}

// Windows first..last, of `count` in a direction, with a kernel of `size`, that hold position `at`.
__device__ inline void windows_over(const Window &w, int at, int size, int count, int &first, int &last) {
    unsigned quotient, rest;
    w.by_stride.split(at + w.padding, quotient, rest);
    last = min((int)quotient, count - 1);
    int before = at + w.padding - size + w.stride;
    w.by_stride.split(max(before, 0), quotient, rest);
    first = (int)quotient;
}

// f(i, j) for every window over (y, x), down and across.
template <class F> __device__ inline void each_window(const Window &w, int y, int x, F f) {
    int top, bottom, left, right;
    windows_over(w, y, w.kernel_height, w.down, top, bottom);
    windows_over(w, x, w.kernel_width, w.across, left, right);
    for (int i = top; i <= bottom; i++) {
        for (int j = left; j <= right; j++) f(i, j);
    }
}

extern "C" __global__ void col2im(Window w, Matrix cols, Matrix images) {
    const int positions = w.down * w.across;
    each(images, [=](i64 image, i64 at) {
        int c, y, x;
        split_pixel(w, at, c, y, x);
        real sum = 0;
        each_window(w, y, x, [&](int i, int j) {
            int u = y + w.padding - i * w.stride, v = x + w.padding - j * w.stride;
            i64 patch = (c * w.kernel_height + u) * w.kernel_width + v;
            sum += row(cols, patch)[image * positions + i * w.across + j];
        });
        return sum;
    });
}

// Whether `later` takes the place of `earlier` as the maximum of a window: equal numbers do not, and what is not a number
// does, so that no pool hides it.
__device__ inline bool beats(real later, real earlier) {
    return later > earlier || later != later;
}

// Where the first maximum under window (i, j) of plane c is, in the image. `SIZE` is that of the window, without padding;
// 0 if it is rare.
template <int SIZE> __device__ inline int maximum(const Window &w, const real *image, int c, int i, int j) {
    int top = i * w.stride - w.padding, left = j * w.stride - w.padding;
    if constexpr (SIZE > 0) {
        const int start = (c * w.height + top) * w.width + left;
        real values[SIZE * SIZE];
#pragma unroll
        for (int n = 0; n < SIZE * SIZE; n++) values[n] = image[start + n / SIZE * w.width + n % SIZE];
        int best = 0;
        real highest = values[0];
#pragma unroll
        for (int n = 1; n < SIZE * SIZE; n++) {
            if (beats(values[n], highest)) {
                best = n;
                highest = values[n];
            }
        }
        return start + best / SIZE * w.width + best % SIZE;
    } else {
        int best = -1;
        real highest = 0;
        for (int y = max(top, 0); y < min(top + w.kernel_height, w.height); y++) {
            for (int x = max(left, 0); x < min(left + w.kernel_width, w.width); x++) {
                int at = (c * w.height + y) * w.width + x;
                real value = image[at];
                if (best < 0 || beats(value, highest)) {
                    best = at;
                    highest = value;
                }
            }
        }
        return best;
    }
}

__device__ inline bool is_plain(const Window &w, int size) {
    return w.kernel_height == size && w.kernel_width == size && w.padding == 0;
}

template <int SIZE> __device__ inline void gather_maxima(const Window &w, Matrix x, Matrix rx, Matrix out) {
    each_direction(out, x.rows, [=](i64 example, i64 at) {
        int c, down, right;
        split_window(w, at, c, down, right);
        int from = maximum<SIZE>(w, row(x, example), c, down, right);
        return [=](i64 i) { return row(rx, i)[from]; };
    });
}

extern "C" __global__ void max_pool_gather(Window w, Matrix x, Matrix rx, Matrix out) {
    if (is_plain(w, 2)) gather_maxima<2>(w, x, rx, out);
    else gather_maxima<0>(w, x, rx, out);
}

// Windows that lie side by side write all pixels under them.
template <int SIZE> __device__ inline void scatter_to_tiles(const Window &w, Matrix x, Matrix dy, Matrix out) {
    each_example(dy.cols, x.rows, dy.rows / x.rows, [=](i64 example, i64 at, i64 first, int count) {
        int c, down, right;
        split_window(w, at, c, down, right);
        const int highest = maximum<SIZE>(w, row(x, example), c, down, right);
        const int start = (c * w.height + down * SIZE) * w.width + right * SIZE;
        real gradient[TOGETHER];
#pragma unroll
        for (int d = 0; d < TOGETHER; d++) {
            if (d < count) gradient[d] = row(dy, (first + d) * x.rows + example)[at];
        }
#pragma unroll
        for (int d = 0; d < TOGETHER; d++) {
            if (d >= count) break;
            real *image = row(out, (first + d) * x.rows + example);
#pragma unroll
            for (int n = 0; n < SIZE * SIZE; n++) {
                const int pixel = start + n / SIZE * w.width + n % SIZE;
                image[pixel] = pixel == highest ? gradient[d] : (real)0;
            }
        }
    });
}

extern "C" __global__ void max_pool_scatter(Window w, Matrix x, Matrix dy, Matrix out) {
    if (x.rows == 0) return;
    if (is_plain(w, 2) && w.stride == 2 && w.height % 2 == 0 && w.width % 2 == 0) {
        scatter_to_tiles<2>(w, x, dy, out);
        return;
    }
    // A pixel asks the windows over it whether it is their maximum.
    const Divisor examples(x.rows);
    each(out, [=](i64 line, i64 at) {
        int c, y, left;
        split_pixel(w, at, c, y, left);
        const real *image = row(x, examples.remainder(line)), *gradient = row(dy, line);
        real sum = 0;
        each_window(w, y, left, [&](int i, int j) {
            if (maximum<0>(w, image, c, i, j) == (int)at) sum += gradient[(c * w.down + i) * w.across + j];
        });
        return sum;
    });
}

extern "C" __global__ void avg_pool(Window w, Matrix x, Matrix out) {
    const real share = (real)1 / (w.kernel_height * w.kernel_width);
    each(out, [=](i64 i, i64 at) {
        int c, down, right;
        split_window(w, at, c, down, right);
        int top = down * w.stride - w.padding, left = right * w.stride - w.padding;
        const real *plane = row(x, i) + c * w.height * w.width;
        real sum = 0;
        for (int y = max(top, 0); y < min(top + w.kernel_height, w.height); y++) {
            for (int column = max(left, 0); column < min(left + w.kernel_width, w.width); column++) {
                sum += share * plane[y * w.width + column];
            }
        }
        return sum;
    });
}

extern "C" __global__ void avg_pool_transpose(Window w, Matrix dy, Matrix out) {
    const real share = (real)1 / (w.kernel_height * w.kernel_width);
    each(out, [=](i64 line, i64 at) {
        int c, y, x;
        split_pixel(w, at, c, y, x);
        const real *gradient = row(dy, line);
        real sum = 0;
        each_window(w, y, x, [&](int i, int j) { sum += share * gradient[(c * w.down + i) * w.across + j]; });
        return sum;
    });
}

extern "C" __global__ void bag_gather(Matrix ids, i64 vocabulary, Matrix w, Matrix out) {
    each(out, [=](i64 i, i64 j) {
        const real *tokens = row(ids, i % ids.rows);
        i64 first = i / ids.rows * vocabulary;
        real sum = 0;
        int count = 0;
        for (i64 t = 0; t < ids.cols; t++) {
            if (tokens[t] < 0) continue;
            sum += row(w, first + (i64)tokens[t])[j];
            count++;
        }
        return sum * ((real)1 / max(count, 1));
    });
}

// One row of `dw` for each direction (blockIdx.y) and distinct token (blockIdx.x): the rows of `dy` whose bags hold it,
// in order, are examples[starts[token]..starts[token + 1]], and their shares.
extern "C" __global__ void bag_scatter(const i64 *tokens, const i64 *starts, const i64 *examples,
                                       const double *shares, i64 rows, i64 vocabulary, Matrix dy, Matrix dw) {
    i64 token = blockIdx.x, direction = blockIdx.y;
    real *target = row(dw, direction * vocabulary + tokens[token]);
    for (i64 j = threadIdx.x; j < dw.cols; j += blockDim.x) {
        real sum = target[j];
        for (i64 e = starts[token]; e < starts[token + 1]; e++) {
            sum += (real)shares[e] * row(dy, direction * rows + examples[e])[j];
        }
        target[j] = sum;
    }
}

extern "C" __global__ void bag_squares(Matrix ids, Matrix out) {
    each(out, [=](i64 i, i64) {
        const real *tokens = row(ids, i);
        i64 count = 0, pairs = 0;
        for (i64 s = 0; s < ids.cols; s++) {
            if (tokens[s] < 0) continue;
            count++;
            for (i64 t = 0; t < ids.cols; t++) pairs += tokens[s] == tokens[t];
        }
        return (real)((double)pairs / (double)max(count * count, (i64)1));
    });
}
