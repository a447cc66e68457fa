// Windows over images, and bags of tokens: twins in cpu_window.rs and cpu_bag.rs. What the CPU scatters is gathered
// here, so that every number is summed by one thread in a fixed order.

struct Window {
    int channels, height, width, kernel_height, kernel_width, stride, padding, down, across;
};

extern "C" __global__ void im2col(Window w, Matrix x, Matrix out) {
    const Divisor positions(w.down * w.across), across(w.across);
    each(out, [=](i64 patch, i64 j) {
        i64 image, position, down, right;
        positions.split(j, image, position);
        across.split(position, down, right);
        int p = (int)patch, area = w.kernel_height * w.kernel_width;
        int c = p / area, u = p % area / w.kernel_width, v = p % w.kernel_width;
        int up = (int)down * w.stride + u - w.padding;
        int left = (int)right * w.stride + v - w.padding;
        bool inside = up >= 0 && up < w.height && left >= 0 && left < w.width;
        return inside ? row(x, image)[(c * w.height + up) * w.width + left] : (real)0;
    });
}

// The pixel `at` of an image: plane, row, column.
__device__ inline void pixel(Window w, i64 at, int &c, int &y, int &x) {
    x = (int)at % w.width;
    y = (int)at / w.width % w.height;
    c = (int)at / (w.width * w.height);
}

// The window (in one direction) whose offset `o` is at `at`, or -1.
__device__ inline int window_at(int at, int offset, int padding, int stride, int count) {
    int from = at + padding - offset;
    return from >= 0 && from % stride == 0 && from / stride < count ? from / stride : -1;
}

extern "C" __global__ void col2im(Window w, Matrix cols, Matrix images) {
    int positions = w.down * w.across;
    each(images, [=](i64 image, i64 at) {
        int c, y, x;
        pixel(w, at, c, y, x);
        real sum = 0;
        for (int u = 0; u < w.kernel_height; u++) {
            int i = window_at(y, u, w.padding, w.stride, w.down);
            if (i < 0) continue;
            for (int v = 0; v < w.kernel_width; v++) {
                int j = window_at(x, v, w.padding, w.stride, w.across);
                if (j < 0) continue;
                i64 patch = (c * w.kernel_height + u) * w.kernel_width + v;
                sum += row(cols, patch)[image * positions + i * w.across + j];
            }
        }
        return sum;
    });
}

// Where the first maximum under window (i, j) of plane c is, in the image.
__device__ inline int maximum(Window w, const real *image, int c, int i, int j) {
    int best = -1;
    for (int u = 0; u < w.kernel_height; u++) {
        int y = i * w.stride + u - w.padding;
        if (y < 0 || y >= w.height) continue;
        for (int v = 0; v < w.kernel_width; v++) {
            int x = j * w.stride + v - w.padding;
            if (x < 0 || x >= w.width) continue;
            int at = (c * w.height + y) * w.width + x;
            if (best < 0 || image[at] > image[best]) best = at;
        }
    }
    return best;
}

extern "C" __global__ void max_pool_gather(Window w, Matrix x, Matrix rx, Matrix out) {
    int positions = w.down * w.across;
    const Divisor examples(x.rows);
    each(out, [=](i64 i, i64 at) {
        int c = (int)at / positions, position = (int)at % positions;
        const real *image = row(x, examples.remainder(i));
        int from = maximum(w, image, c, position / w.across, position % w.across);
        return row(rx, i)[from];
    });
}

extern "C" __global__ void max_pool_scatter(Window w, Matrix x, Matrix dy, Matrix out) {
    const Divisor examples(x.rows);
    each(out, [=](i64 line, i64 at) {
        int c, y, left;
        pixel(w, at, c, y, left);
        const real *image = row(x, examples.remainder(line));
        real sum = 0;
        for (int u = w.kernel_height - 1; u >= 0; u--) {
            int i = window_at(y, u, w.padding, w.stride, w.down);
            if (i < 0) continue;
            for (int v = w.kernel_width - 1; v >= 0; v--) {
                int j = window_at(left, v, w.padding, w.stride, w.across);
                if (j < 0 || maximum(w, image, c, i, j) != (int)at) continue;
                sum += row(dy, line)[(c * w.down + i) * w.across + j];
            }
        }
        return sum;
    });
}

extern "C" __global__ void avg_pool(Window w, Matrix x, Matrix out) {
    int positions = w.down * w.across;
    real share = (real)1 / (w.kernel_height * w.kernel_width);
    each(out, [=](i64 i, i64 at) {
        int c = (int)at / positions, position = (int)at % positions;
        real sum = 0;
        for (int u = 0; u < w.kernel_height; u++) {
            int up = position / w.across * w.stride + u - w.padding;
            if (up < 0 || up >= w.height) continue;
            for (int v = 0; v < w.kernel_width; v++) {
                int left = position % w.across * w.stride + v - w.padding;
                if (left >= 0 && left < w.width) sum += share * row(x, i)[(c * w.height + up) * w.width + left];
            }
        }
        return sum;
    });
}

extern "C" __global__ void avg_pool_transpose(Window w, Matrix dy, Matrix out) {
    real share = (real)1 / (w.kernel_height * w.kernel_width);
    each(out, [=](i64 line, i64 at) {
        int c, y, x;
        pixel(w, at, c, y, x);
        real sum = 0;
        for (int u = w.kernel_height - 1; u >= 0; u--) {
            int i = window_at(y, u, w.padding, w.stride, w.down);
            if (i < 0) continue;
            for (int v = w.kernel_width - 1; v >= 0; v--) {
                int j = window_at(x, v, w.padding, w.stride, w.across);
                if (j >= 0) sum += share * row(dy, line)[(c * w.down + i) * w.across + j];
            }
        }
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
