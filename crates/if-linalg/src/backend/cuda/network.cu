// Activations and losses: twins in cpu_activation.rs and cpu_loss.rs. Kinds are numbered as in kernels.rs.

enum { RELU, LEAKY_RELU, TANH, SIGMOID, SOFTPLUS, GELU, GELU_TANH, SELU };

__device__ inline real sigmoid(real x) {
    if (x >= 0) return 1 / (1 + exp(-x));
    real e = exp(x);
    return e / (1 + e);
}

__device__ inline real softplus(real x) { return (x > 0 ? x : (real)0) + log1p(exp(-fabs(x))); }

// f, f' and f'' at z.
__device__ inline void activation(int kind, real slope, real z, real &f, real &f1, real &f2) {
    switch (kind) {
    case RELU:
    case LEAKY_RELU: {
        real s = kind == RELU ? (real)0 : slope;
        f1 = z > 0 ? (real)1 : s;
        f = z > 0 ? z : kind == RELU && z <= 0 ? (real)0 : s * z;
        f2 = 0;
        break;
    }
    case TANH:
        f = tanh(z);
        f1 = 1 - f * f;
        f2 = -2 * f * f1;
        break;
    case SIGMOID:
        f = sigmoid(z);
        f1 = f * sigmoid(-z);
        f2 = f1 * (1 - 2 * f);
        break;
    case SOFTPLUS:
        f = softplus(z);
        f1 = sigmoid(z);
        f2 = f1 * sigmoid(-z);
        break;
    case GELU: {
        real cdf = (real)0.5 * erfc(-z * (real)0.70710678118654752440);
        real pdf = exp((real)-0.5 * z * z) * (real)0.39894228040143267794;
        f = z * cdf;
        f1 = cdf + z * pdf;
        // Far out the square is infinite.
        f2 = pdf == 0 ? (real)0 : (2 - z * z) * pdf;
        break;
    }
    case GELU_TANH: {
        const real c = (real)0.79788456080286535588, a = (real)0.044715;
        real t = tanh(c * (z + a * z * z * z)), d = 1 - t * t;
        real u1 = c * (1 + 3 * a * z * z), u2 = 6 * c * a * z;
        f = (real)0.5 * z * (1 + t);
        // Far out u1 and its square are infinite.
        f1 = (real)0.5 * (1 + t) + (d == 0 ? (real)0 : (real)0.5 * z * d * u1);
        f2 = d == 0 ? (real)0 : d * u1 + (real)0.5 * z * d * (u2 - 2 * t * u1 * u1);
        break;
    }
    default: {
        const real lambda = (real)1.0507009873554805, scale = lambda * (real)1.6732632423543772;
        f = z > 0 ? lambda * z : scale * expm1(z);
        f1 = z > 0 ? lambda : scale * exp(z);
        f2 = z > 0 ? (real)0 : f1;
    }
    }
}

// The same where the output y is known already, from which some derivatives follow; others do not read it.
__device__ inline void derivatives(int kind, real slope, real z, const real *y, real &f1, real &f2) {
    real f;
    if (kind == TANH) {
        f1 = 1 - *y * *y;
        f2 = -2 * *y * f1;
    } else if (kind == SIGMOID) {
        f1 = *y * (1 - *y);
        f2 = f1 * (1 - 2 * *y);
    } else {
        activation(kind, slope, z, f, f1, f2);
    }
}

extern "C" __global__ void activate(int kind, real slope, Matrix x, Matrix y) {
    each(y, [=](i64 i, i64 j) {
        real f, f1, f2;
        activation(kind, slope, row(x, i)[j], f, f1, f2);
        return f;
    });
}

extern "C" __global__ void activation_backward(int kind, real slope, Matrix x, Matrix y, Matrix dy, Matrix out) {
    each_direction(out, x.rows, [=](i64 example, i64 j) {
        real f1, f2;
        derivatives(kind, slope, row(x, example)[j], &row(y, example)[j], f1, f2);
        return [=](i64 i) { return f1 * row(dy, i)[j]; };
    });
}

extern "C" __global__ void activation_r_backward(int kind, real slope, Matrix x, Matrix y, Matrix dy, Matrix rx,
                                                 Matrix rdy, Matrix out) {
    if (kind == RELU || kind == LEAKY_RELU) {
        // Nothing bends: half of what would be read.
        each_direction(out, x.rows, [=](i64 example, i64 j) {
            real f1 = row(x, example)[j] > 0 ? (real)1 : kind == RELU ? (real)0 : slope;
            return [=](i64 i) { return f1 * row(rdy, i)[j]; };
        });
        return;
    }
    each_direction(out, x.rows, [=](i64 example, i64 j) {
        real f1, f2;
        derivatives(kind, slope, row(x, example)[j], &row(y, example)[j], f1, f2);
        real bent = f2 * row(dy, example)[j];
        return [=](i64 i) { return f1 * row(rdy, i)[j] + bent * row(rx, i)[j]; };
    });
}

enum { CROSS_ENTROPY, LABEL_SMOOTHING, LOGISTIC, SQUARED, HINGE, SMOOTH_HINGE, LOGIT, MARGIN };

// Value, first and second derivative of a loss of one output; the target of several is their part of the one-hot row.
__device__ inline void scalar_loss(int kind, real t, real z, real y, real &value, real &d1, real &d2) {
    real m = y * z;
    switch (kind) {
    case LOGISTIC:
        value = softplus(-m);
        d1 = -y * sigmoid(-m);
        d2 = sigmoid(m) * sigmoid(-m);
        break;
    case SQUARED:
        value = (real)0.5 * (z - y) * (z - y);
        d1 = z - y;
        d2 = 1;
        break;
    case HINGE:
        value = m < 1 ? 1 - m : (real)0;
        d1 = m < 1 ? -y : (real)0;
        d2 = 0;
        break;
    case SMOOTH_HINGE: {
        real u = (1 - m) / t;
        value = t * softplus(u);
        d1 = -y * sigmoid(u);
        d2 = sigmoid(u) * sigmoid(-u) / t;
        break;
    }
    default:
        value = -m;
        d1 = -y;
        d2 = 0;
    }
}

// One warp a row.
extern "C" __global__ void loss(int kind, real parameter, Matrix z, Matrix targets, Matrix value, Matrix delta,
                                Matrix curvature) {
    EACH_ROW(z.rows, i, lane) {
        const real *outputs = row(z, i);
        real *d = row(delta, i), *c = row(curvature, i), target = row(targets, i)[0];
        i64 classes = z.cols, own = (i64)target;
        if (kind == CROSS_ENTROPY || kind == LABEL_SMOOTHING || (kind == MARGIN && classes > 1)) {
            i64 left_out = kind == MARGIN ? own : -1;
            real highest = (real)__longlong_as_double(0xfff0000000000000LL), total = 0, others = 0;
            for (i64 k = lane; k < classes; k += 32) {
                if (k != left_out && outputs[k] > highest) highest = outputs[k];
            }
            highest = warp_max(highest);
            for (i64 k = lane; k < classes; k += 32) {
                c[k] = k == left_out ? (real)0 : exp(outputs[k] - highest);
                total += c[k];
                if (kind == LABEL_SMOOTHING) others += outputs[own] - outputs[k];
            }
            total = warp_sum(total);
            others = warp_sum(others);
            real share = kind == LABEL_SMOOTHING ? parameter / classes : (real)0;
            for (i64 k = lane; k < classes; k += 32) {
                c[k] /= total;
                d[k] = c[k] - share;
                if (k == own) d[k] = c[k] - 1 + (kind == LABEL_SMOOTHING ? parameter - share : (real)0);
            }
            real l = log(total) + (highest - outputs[own]);
            // Not for the others: there the sum may be infinite, and the share is 0.
            if (kind == LABEL_SMOOTHING) l += share * others;
            if (lane == 0) row(value, i)[0] = l;
        } else {
            real total = 0;
            for (i64 k = lane; k < classes; k += 32) {
                real y = classes == 1 ? target : (real)(k == own), l;
                scalar_loss(kind, parameter, outputs[k], y, l, d[k], c[k]);
                total += l;
            }
            total = warp_sum(total);
            if (lane == 0) row(value, i)[0] = total;
        }
    }
}

extern "C" __global__ void loss_hessian(int coupled, Matrix curvature, Matrix rz, Matrix out) {
    const Divisor examples(curvature.rows);
    EACH_ROW(rz.rows, i, lane) {
        const real *c = row(curvature, examples.remainder(i)), *r = row(rz, i);
        real mean = 0;
        if (coupled) {
            for (i64 k = lane; k < rz.cols; k += 32) mean += c[k] * r[k];
            mean = warp_sum(mean);
        }
        for (i64 k = lane; k < rz.cols; k += 32) row(out, i)[k] = c[k] * (r[k] - mean);
    }
}

extern "C" __global__ void loss_root(int coupled, Matrix curvature, i64 first, Matrix out) {
    const Divisor examples(curvature.rows);
    each(out, [=](i64 i, i64 j) {
        i64 column, example;
        examples.split(i, column, example);
        const real *p = row(curvature, example);
        real root = sqrt(p[first + column]), hit = j == first + column ? root : (real)0;
        return coupled ? hit - root * p[j] : hit;
    });
}
