// Convolutions without patches in memory: twins in cpu_convolution/. A block copies planes of some images, zeros around
// them, to shared memory, where a row of the patch matrix is the same plane from another place on; products are taken
// from there in registers. Threads have windows below each other, so that a number that is read once serves as many
// products as the window is high, and neighbours have windows beside each other.

// By the host (convolution.rs), to which the transposed convolution is one of these as well.
struct Planes {
    int planes, height, width; // of the images
    int kernel_height, kernel_width, above, left; // of the window; zeros above the image and left of it
    int down, across; // windows
    int lines, bands; // lines of windows that a block has at once, and how often that is needed for all
    int images, chunk; // images and planes of each that a block has at once
    int plane, pitch; // numbers of a plane in shared memory and of its lines
    Division by_pitch, by_across;
};

extern __shared__ __align__(16) unsigned char shared_memory[];

// Starts a copy of `N` bytes to shared memory, zeros where nothing is `there`, while the thread goes on.
template <int N> __device__ inline void start_copy(void *to, const void *from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "n"(N), "r"(there ? N : 0)
                 : "memory");
#else
    for (int i = 0; i < N / (int)sizeof(real); i++) ((real *)to)[i] = there ? ((const real *)from)[i] : (real)0;
#endif
}

// What this thread has started since belongs together.
__device__ inline void end_of_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all copies of the block but those that belong to the last end.
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
    __syncthreads();
}

// Shares out planes of `size` numbers each among the threads of a block: f(number, first, step) for the planes number
// `first`, `first + step`, ..., so that what belongs to the number is found once.
template <class F> __device__ inline void each_number(int size, F f) {
    const int together = max((int)blockDim.x / size, 1), first = together > 1 ? (int)threadIdx.x / size : 0;
    if (first >= together) return;
    for (int number = threadIdx.x - first * size; number < size; number += blockDim.x) f(number, first, together);
}

// Copies lines under the windows of a band, of planes from `first_plane` on, of `count` images that lie `stride` apart:
// to[image][plane][line][column].
__device__ inline void copy_planes(const Planes &p, const real *images, i64 stride, int count, int band,
                                   int first_plane, real *to) {
    const int area = p.height * p.width;
    each_number(p.plane, [&](int number, int first, int step) {
        unsigned line, column;
        p.by_pitch.split(number, line, column);
        const int y = band * p.lines - p.above + (int)line, x = (int)column - p.left;
        const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
        const real *from = images + (inside ? y * p.width + x : 0);
        for (int image = 0; image < count; image++) {
            for (int c = first; c < p.chunk; c += step) {
                const bool there = inside && first_plane + c < p.planes;
                start_copy<sizeof(real)>(to + (image * p.chunk + c) * p.plane + number,
                                         from + (there ? (i64)(first_plane + c) * area : 0), there);
            }
            from += stride;
        }
    });
}

#define OUTS 8

// Weights that are read together.
struct alignas(16) Weights {
    real of[OUTS];
};

// Matrices of weights, and as they are arranged: [matrix][set][k][out], rows k = (plane, offset) and a last one for the
// bias, columns the outputs of a set, zero beyond the last output.
struct Filter {
    int outputs, sets, groups; // groups of OUTS outputs in a set: a block takes one set
    int mirrored, bias;
    i64 out_step, plane_step, matrix_step; // distances in the matrices given
    Division by_outs, by_area, by_group, by_image; // of a set; offsets; threads of a group and of one of its images
};

extern "C" __global__ void arrange_weights(Planes p, Filter f, i64 matrices, const real *w, real *arranged) {
    const int outs = f.groups * OUTS, area = p.kernel_height * p.kernel_width, patch = p.planes * area;
    const i64 each = (i64)f.sets * (patch + 1) * outs, total = matrices * each;
    for (i64 at = blockIdx.x * (i64)blockDim.x + threadIdx.x; at < total; at += gridDim.x * (i64)blockDim.x) {
        const real *own = w + at / each * f.matrix_step;
        unsigned line, out, plane, offset;
        f.by_outs.split((unsigned)(at % each), line, out);
        int set = line / (patch + 1), k = line % (patch + 1), o = set * outs + (int)out;
        f.by_area.split(k, plane, offset);
        if (f.mirrored) offset = area - 1 - offset;
        real value = 0;
        if (o < f.outputs) {
            if (k < patch) value = own[o * f.out_step + plane * f.plane_step + offset];
            else if (f.bias) value = own[o * f.out_step + patch];
        }
        arranged[at] = value;
    }
}

// Adds the products of the planes in shared memory to `sums`. `SIZE` is that of the kernel, 0 if it is rare.
template <int LINES, int SIZE>
__device__ inline void convolve_planes(const Planes &p, int planes, int outs, const real *weights, const real *image,
                                       real (&sums)[OUTS][LINES]) {
    const int width = SIZE ? SIZE : p.kernel_width, height = SIZE ? SIZE : p.kernel_height;
    for (int c = 0; c < planes; c++) {
#pragma unroll
        for (int v = 0; v < width; v++) {
            const real *column = image + v, *w_column = weights + v * outs;
            real inputs[LINES + (SIZE ? SIZE - 1 : 0)];
            if (SIZE > 0) {
#pragma unroll
                for (int t = 0; t < LINES + SIZE - 1; t++) inputs[t] = column[t * p.pitch];
            }
#pragma unroll
            for (int u = 0; u < height; u++) {
                if (SIZE == 0) {
#pragma unroll
                    for (int t = 0; t < LINES; t++) inputs[t] = column[(t + u) * p.pitch];
                }
                const Weights w = *(const Weights *)(w_column + u * width * outs);
#pragma unroll
                for (int t = 0; t < LINES; t++) {
#pragma unroll
                    for (int o = 0; o < OUTS; o++) sums[o][t] += w.of[o] * inputs[t + (SIZE ? u : 0)];
                }
            }
        }
        image += p.plane;
        weights += height * width * outs;
    }
}

// The sums of a thread, and whether there is an output and a window for one.
#define EACH_OUTPUT(o, t)                                                                                    \
    _Pragma("unroll") for (int o = 0; o < OUTS; o++) _Pragma("unroll") for (int t = 0; t < LINES; t++)
#define THERE(o, t) (mine && first_out + (o) < f.outputs && first_line + (t) < p.down)

// One block for some images (or a band of lines) of those that one matrix convolves (blockIdx.x) and one set of outputs
// (blockIdx.y); a thread has OUTS outputs of LINES windows. `run` rows of `y` have one matrix, and follow each other in
// `x` as well.
template <int LINES>
__device__ inline void convolve(const Planes &p, const Filter &f, const real *arranged, i64 run, i64 rows_of_a_matrix,
                                Matrix x, real beta, Matrix y) {
    const int outs = f.groups * OUTS, area = p.kernel_height * p.kernel_width, patch = p.planes * area;
    const i64 blocks_of_a_run = (run + p.images - 1) / p.images * p.bands;
    const i64 rest = blockIdx.x % blocks_of_a_run, first_row = blockIdx.x / blocks_of_a_run * run;
    const int band = rest % p.bands;
    const i64 first_image = rest / p.bands * p.images;
    const int count = (int)min((i64)p.images, run - first_image);
    const i64 matrix = first_row / rows_of_a_matrix;
    const real *filter = arranged + (matrix * f.sets + blockIdx.y) * (patch + 1) * outs;
    const real *source = row(x, first_row % x.rows + first_image);

    unsigned group, place, image, strip, column;
    f.by_group.split(threadIdx.x, group, place);
    f.by_image.split(place, image, place);
    p.by_across.split(place, strip, column);
    const bool mine = group < f.groups && image < count;
    const int from = mine ? image * p.chunk * p.plane + strip * LINES * p.pitch + column : 0;
    const int first_of_group = mine ? group * OUTS : 0;

    // Weights and images of a chunk; the next one is on its way to the other half meanwhile.
    real *const halves = (real *)shared_memory;
    const int images_at = p.chunk * area * outs, half = (images_at + p.images * p.chunk * p.plane + 3) / 4 * 4;
    const auto fetch = [&](int first, real *to) {
        const int bytes = min(p.chunk, p.planes - first) * area * outs * (int)sizeof(real);
        const char *weights = (const char *)(filter + first * area * outs);
        for (int at = threadIdx.x * 16; at < bytes; at += blockDim.x * 16) {
            start_copy<16>((char *)to + at, weights + at, true);
        }
        copy_planes(p, source, x.stride, count, band, first, to + images_at);
    };
    fetch(0, halves);
    end_of_copies();

    const int first_out = blockIdx.y * outs + first_of_group, first_line = band * p.lines + strip * LINES;
    const i64 next_output = (i64)(p.down - LINES + 1) * p.across;
    const auto first_of_thread = [&]() {
        real *to = row(y, first_row + first_image + (mine ? image : 0));
        return to + ((i64)first_out * p.down + first_line) * p.across + column;
    };
    real sums[OUTS][LINES];
    const Weights bias = *(const Weights *)(filter + patch * outs + first_of_group);
    // What is there is on its way, straight to where it is needed, while all else is.
    EACH_OUTPUT(o, t) sums[o][t] = 0;
    if (beta != 0) {
        const real *old = first_of_thread();
        EACH_OUTPUT(o, t) {
            if (THERE(o, t)) sums[o][t] = *old;
            old += t + 1 < LINES ? p.across : next_output;
        }
    }
    EACH_OUTPUT(o, t) sums[o][t] = bias.of[o] + beta * sums[o][t];
    for (int first = 0, turn = 0; first < p.planes; first += p.chunk, turn = half - turn) {
        if (first + p.chunk < p.planes) fetch(first + p.chunk, halves + half - turn);
        end_of_copies();
        wait_for_copies();
        const int planes = min(p.chunk, p.planes - first);
        const real *weights = halves + turn + first_of_group, *from_images = halves + turn + images_at + from;
        if (p.kernel_height == 3 && p.kernel_width == 3) {
            convolve_planes<LINES, 3>(p, planes, outs, weights, from_images, sums);
        } else {
            convolve_planes<LINES, 0>(p, planes, outs, weights, from_images, sums);
        }
        __syncthreads();
    }
    real *slot = first_of_thread();
    EACH_OUTPUT(o, t) {
        if (THERE(o, t)) *slot = sums[o][t];
        slot += t + 1 < LINES ? p.across : next_output;
    }
}

#define CONVOLVE(name, lines)                                                                                \
    extern "C" __global__ void __launch_bounds__(256, sizeof(real) == 4 ? 2 : 1)                             \
        name(Planes p, Filter f, const real *arranged, i64 run, i64 rows_of_a_matrix, Matrix x, real beta,   \
             Matrix y) {                                                                                     \
        convolve<lines>(p, f, arranged, run, rows_of_a_matrix, x, beta, y);                                  \
    }

CONVOLVE(convolve_7, 7)
CONVOLVE(convolve_8, 8)

// Offsets (rows of the patch matrix) of a tile, which has OUTS outputs.
#define OFFSETS 9

// Tiles of weights: those of a block, of OUTS outputs and OFFSETS offsets each, have `splits` threads each, which share
// the columns of windows. The bias is an offset that finds nothing but ones, in a tile of its own.
struct Tiles {
    int outputs, bias, groups, tiles; // groups of outputs in a block, and tiles of a group there
    int all_tiles, splits, line; // tiles of a group; threads of a tile; numbers of an output's windows in shared memory
    i64 directions, examples, of_a_part; // rows of each direction, and those that a block sums up
    Division by_tiles, by_groups; // of a block
};

// Copies a band of the windows of `count` rows: to[image][out][window], zero beyond the last.
__device__ inline void copy_deltas(const Planes &p, const Tiles &t, const Matrix &dy, i64 first_row, int first_out,
                                   int count, int band, real *to) {
    const int positions = p.lines * p.across, outs = t.groups * OUTS, start = band * positions;
    const int all = p.down * p.across;
    each_number(positions, [&](int window, int first, int step) {
        const bool inside = start + window < all;
        const real *from = row(dy, first_row) + (inside ? start + window : 0);
        for (int image = 0; image < count; image++) {
            for (int o = first; o < outs; o += step) {
                const bool there = inside && first_out + o < t.outputs;
                start_copy<sizeof(real)>(to + (image * outs + o) * t.line + window,
                                         from + (there ? (i64)(first_out + o) * all : 0), there);
            }
            from += dy.stride;
        }
    });
}

// One block for some rows of a direction (blockIdx.x), some groups of outputs and some tiles (blockIdx.y).
// out[part][direction][output], added to what is there if there is one part only.
extern "C" __global__ void __launch_bounds__(256, sizeof(real) == 4 ? 2 : 1)
    convolve_weights(Planes p, Tiles t, Matrix dy, Matrix x, int add, Matrix out) {
    const int area = p.kernel_height * p.kernel_width, patch = p.planes * area, of_a_block = t.groups * t.tiles;
    const int blocks = (t.all_tiles + t.tiles - 1) / t.tiles;
    const int first_tile = blockIdx.y % blocks * t.tiles, first_out = blockIdx.y / blocks * t.groups * OUTS;
    const i64 direction = blockIdx.x % t.directions, part = blockIdx.x / t.directions;
    const i64 start = part * t.of_a_part, end = min(start + t.of_a_part, t.examples);
    // Rows that all directions share, or those of this one.
    const i64 dy_row = dy.rows > t.examples ? direction * t.examples : 0;
    const i64 x_row = x.rows > t.examples ? direction * t.examples : 0;
    // Images and deltas of some rows; the next ones are on their way to the other half meanwhile.
    real *const ones = (real *)shared_memory, *const halves = ones + p.plane;
    const int deltas_at = p.images * p.chunk * p.plane, half = deltas_at + p.images * t.groups * OUTS * t.line;
    for (int at = threadIdx.x; at < p.plane; at += blockDim.x) ones[at] = 1;

    unsigned split, own, tile, group;
    t.by_tiles.split(threadIdx.x, split, own);
    t.by_groups.split(own, tile, group);
    tile += first_tile;
    const bool bias = t.bias && tile == t.all_tiles - 1, mine = split < t.splits && tile < t.all_tiles;
    const int first_plane = first_tile * OFFSETS / area;
    int offsets[OFFSETS];
#pragma unroll
    for (int n = 0; n < OFFSETS; n++) {
        int k = min((int)tile * OFFSETS + n, patch - 1);
        int plane = k / area, u = k % area / p.kernel_width, v = k % area % p.kernel_width;
        offsets[n] = bias ? 0 : (plane - first_plane) * p.plane + u * p.pitch + v;
    }
    const bool square = p.kernel_height == 3 && p.kernel_width == 3;
    real sums[OUTS][OFFSETS];
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
#pragma unroll
        for (int n = 0; n < OFFSETS; n++) sums[o][n] = 0;
    }
    const i64 turns = (end - start + p.images - 1) / p.images * p.bands;
    const auto count_at = [&](i64 turn) { return (int)min((i64)p.images, end - start - turn / p.bands * p.images); };
    const auto fetch = [&](i64 turn) {
        const i64 first = start + turn / p.bands * p.images;
        const int count = count_at(turn), band = turn % p.bands;
        real *to = halves + turn % 2 * half;
        copy_planes(p, row(x, x_row + first), x.stride, count, band, first_plane, to);
        copy_deltas(p, t, dy, dy_row + first, first_out, count, band, to + deltas_at);
    };
    fetch(0);
    end_of_copies();
    for (i64 turn = 0; turn < turns; turn++) {
        if (turn + 1 < turns) fetch(turn + 1);
        end_of_copies();
        wait_for_copies();
        const real *images = halves + turn % 2 * half, *deltas = images + deltas_at;
        const int columns = mine ? count_at(turn) * p.across : 0;
        for (int at = split; at < columns; at += t.splits) {
            unsigned image, column;
            p.by_across.split(at, image, column);
            const real *d = deltas + (image * t.groups + group) * OUTS * t.line + column;
            const real *from = (bias ? ones : images + image * p.chunk * p.plane) + column;
            if (square) {
                // The window of the next line shares two lines with this one's.
                from += offsets[0];
                real input[3][3];
#pragma unroll
                for (int u = 0; u < 2; u++) {
#pragma unroll
                    for (int v = 0; v < 3; v++) input[u][v] = from[u * p.pitch + v];
                }
                from += 2 * p.pitch;
#pragma unroll 2
                for (int line = 0; line < p.lines; line++) {
#pragma unroll
                    for (int v = 0; v < 3; v++) input[2][v] = from[v];
#pragma unroll
                    for (int o = 0; o < OUTS; o++) {
                        const real delta = d[o * t.line];
#pragma unroll
                        for (int n = 0; n < OFFSETS; n++) sums[o][n] += delta * input[n / 3][n % 3];
                    }
#pragma unroll
                    for (int v = 0; v < 3; v++) {
                        input[0][v] = input[1][v];
                        input[1][v] = input[2][v];
                    }
                    from += p.pitch;
                    d += p.across;
                }
            } else {
                for (int line = 0; line < p.lines; line++) {
                    real input[OFFSETS];
#pragma unroll
                    for (int n = 0; n < OFFSETS; n++) input[n] = from[offsets[n]];
#pragma unroll
                    for (int o = 0; o < OUTS; o++) {
                        const real delta = d[o * t.line];
#pragma unroll
                        for (int n = 0; n < OFFSETS; n++) sums[o][n] += delta * input[n];
                    }
                    from += p.pitch;
                    d += p.across;
                }
            }
        }
        __syncthreads();
    }
    // Over the threads of a tile, one output after another.
    real *parts = (real *)shared_memory;
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        __syncthreads();
#pragma unroll
        for (int n = 0; n < OFFSETS; n++) parts[n * blockDim.x + threadIdx.x] = sums[o][n];
        __syncthreads();
        for (int at = threadIdx.x; at < of_a_block * OFFSETS; at += blockDim.x) {
            int n = at % OFFSETS, of = at / OFFSETS, whose = first_tile + of / t.groups;
            int out_of = first_out + of % t.groups * OUTS + o, k = whose * OFFSETS + n;
            if (t.bias && whose == t.all_tiles - 1) k = n == 0 ? patch : -1;
            else if (k >= patch) k = -1;
            if (whose >= t.all_tiles || out_of >= t.outputs || k < 0) continue;
            real sum = 0;
            for (int s = 0; s < t.splits; s++) sum += parts[n * blockDim.x + s * of_a_block + of];
            real *to = &row(out, (part * t.directions + direction) * t.outputs + out_of)[k];
            *to = add ? *to + sum : sum;
        }
    }
}

// out += the sum over parts, each of the shape of `out` without room between its rows.
extern "C" __global__ void add_parts(const real *parts, i64 count, Matrix out) {
    const i64 size = out.rows * out.cols;
    each(out, [=](i64 i, i64 j) {
        double sum = (double)row(out, i)[j];
        for (i64 part = 0; part < count; part++) sum += (double)parts[part * size + i * out.cols + j];
        return (real)sum;
    });
}
