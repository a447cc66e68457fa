"""The GPU comparison, PyTorch's side: the work of influence functions as it is done with torch, on one device.

    python benches/gpu/peer.py --device cuda --out peer.json
    python benches/gpu/peer.py --device cpu --scale 0.002 --compile-seconds 0 --out peer.json     (a test)

Works (`--only` takes their names; at --scale 1, n = 10,000 training examples):
  rates         f32, TF32, bf16 and f64 matrix products, device-to-device copy
  hessian       products with the Hessian of the mean loss, k = 1, 16, 100 directions at once
  gauss-newton  the same with J^T H J
  cg            100 systems (Gauss-Newton + DAMPING I) x = gradient of a query, 20 iterations of CG
  ekfac         EK-FAC with the exact expectation over the 10 classes
  scoring       <g_i, v_j> of 50,000 training examples and 100 vectors
  tracin        sum over 5 checkpoints of lr <g_i, g_q>, 50,000 training examples and 100 queries

Every work is done in several ways (variants), which must agree within 2e-3 (norm-wise, relative, each tensor), else
MISMATCH is printed and the exit code is 1. The fastest variant is the peer; `detail` has all. f32 with TF32 off, but
for rates that name another precision. Inputs are standard normal, labels uniform, weights torch's default with logits
scaled to unit size. A variant that runs out of memory is named and skipped; when the budget is spent, so is every
variant but the first of a work.

Output: a list of {work, model, precision, seconds, repeats, detail}. At another scale the names of the works stay, and
`detail` holds the true sizes. Seconds are medians over `repeats`, each between two synchronisations, after a warm-up;
`extrapolated` marks seconds that were measured on a part of the work and multiplied.
"""

import argparse
import gc
import json
import math
import os
import signal
import statistics
import sys
import time
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, vjp, vmap

CLASSES = 10
DAMPING = 0.01
CG_ITERATIONS = 20
CHECKPOINTS = 5
LEARNING_RATE = 0.1
# In f32 some relu of some example lies on the other side of its kink when sums are taken in another order: 8e-4 was
# seen among the scores of 50,000 examples, where without kinks differences are below 1e-5.
TOLERANCE = 2e-3
FIRST_PASS_LIMIT = 60  # seconds, compiling included


class Bench:
    """One device, one clock, the records of one run."""

    def __init__(self, options):
        self.device, self.scale, self.out = torch.device(options.device), options.scale, options.out
        self.budget, self.compile_left = options.budget, 0
        self.cuda, self.start = self.device.type == "cuda", time.perf_counter()
        self.records, self.mismatch, self.references = [], False, {}

    def size(self, full, least):
        return max(least, round(full * self.scale))

    def spare(self, part):
        """Seconds that something may take: a part of the budget, nothing when the budget is spent."""
        return self.budget * part if time.perf_counter() - self.start < self.budget else 0

    def call(self, f, times=1):
        """The result of `f()` and the seconds of one call, all its work on the device included."""
        if self.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            result = f()
        if self.cuda:
            torch.cuda.synchronize()
        return result, (time.perf_counter() - start) / times

    def measure(self, f):
        """The result of `f()`, which is warm, and a row of its median seconds. Repeats may take 1/300 of the budget;
        there is one at least. Short calls are timed several in a row, 20 ms at least."""
        result, seconds = self.call(f)
        times = max(1, math.ceil(0.02 / seconds))
        repeats = min(7, int(self.spare(1 / 300) / (seconds * times)))
        samples = [self.call(f, times)[1] for _ in range(max(repeats, times > 1))] or [seconds]
        return result, {"seconds": statistics.median(samples), "repeats": len(samples), "calls_per_repeat": times}

    def trial(self, what, variants, *arguments):
        """Times each of `variants` (functions by name; with `passes=1` they do the first pass only, for warming up and
        compiling) and compares its result with that of the first. Returns rows by name."""
        rows = {}
        for name, f in variants.items():
            compiles, start, result = name.endswith("compiled"), time.perf_counter(), None
            try:
                if (compiles and self.compile_left <= 0) or (rows and not self.spare(1)):
                    raise TimeoutError("its seconds are spent")
                signal.alarm(FIRST_PASS_LIMIT)
                first = self.call(lambda: f(*arguments, passes=1))[1]
                signal.alarm(0)
                result, row = self.measure(lambda: f(*arguments))
            except Exception as e:  # out of memory, a compiler that fails or takes too long: said, and skipped
                reason = "out of memory" if isinstance(e, torch.OutOfMemoryError) else f"{type(e).__name__}: {e}"
                rows[name] = {"skipped": " ".join(reason.split())[:300]}
                print(f"    {what}, {name}: skipped, {rows[name]['skipped']}", flush=True)
            else:
                print(f"    {what}, {name}: {row['seconds']:.3e} s", flush=True)
                if what not in self.references:
                    self.references = {what: result}
                error = difference(result, self.references[what])
                self.check(f"{what}, {name}", error)
                rows[name] = row | {"first_pass_seconds": first, "difference": error}
            finally:
                signal.alarm(0)
            self.compile_left -= compiles * (time.perf_counter() - start)
            self.free()
        return rows

    def free(self):
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def check(self, what, error, tolerance=TOLERANCE):
        if not error <= tolerance:  # NaN is a mismatch, too
            self.mismatch = True
            print(f"MISMATCH {what}: {error:.1e}", flush=True)

    def best(self, work, model, rows, **detail):
        """Records the fastest of `rows`, and returns its name; None where every variant was skipped."""
        name = fastest(rows)
        if name is None:
            print(f"{work}, {model}: no variant ran", flush=True)
        else:
            detail = {"fastest": name} | detail | {"variants": rows}
            self.record(work, model, "f32", rows[name]["seconds"], rows[name]["repeats"], detail)
        return name

    def record(self, work, model, precision, seconds, repeats, detail):
        row = {"work": work, "model": model, "precision": precision, "seconds": seconds, "repeats": repeats}
        self.records.append(row | {"detail": detail})
        print(f"{work}, {model}, {precision}: {seconds:.4e} s {detail.get('fastest', '')}", flush=True)
        with open(self.out + ".tmp", "w") as file:
            json.dump(self.records, file, indent=1)
        os.replace(self.out + ".tmp", self.out)


def too_long(*_):
    raise TimeoutError(f"the first pass took more than {FIRST_PASS_LIMIT} s")


def graphed(f):
    """`f` as a CUDA graph, recorded by the first call. Every call copies its argument in and replays."""
    held = result = None
    graph = torch.cuda.CUDAGraph()

    def replay(v, passes=None):
        nonlocal held, result
        if result is None:
            held, side = {name: t.clone() for name, t in v.items()}, torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                f(held)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                result = f(held)
        for name, t in held.items():
            t.copy_(v[name])
        graph.replay()
        return result

    return replay


def fastest(rows):
    done = [name for name in rows if "seconds" in rows[name]]
    return min(done, key=lambda name: rows[name]["seconds"], default=None)


def difference(a, b):
    """Largest |a - b| / |b| (Euclidean norms) over the tensors of two dictionaries; NaN where one is."""
    norm = torch.linalg.vector_norm
    return float(torch.stack([norm(a[name] - b[name]) / norm(b[name]) for name in b]).max())


def mlp(*widths):
    layers = [nn.Flatten()]
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, CLASSES),
    )


class Problem:
    """A network, its data, and how many examples fit in a pass. A vector or a block of vectors of the size of the
    parameters is a dictionary of tensors by parameter name, (shape) or (k, shape)."""

    # name: constructor, shape of an input, examples times directions in one pass (about 16 GB in the widest variant)
    ALL = {
        "MLP 784-256-128-10": (lambda: mlp(784, 256, 128, 10), (784,), 1_000_000),
        "CNN 16-32": (cnn, (1, 28, 28), 25_000),
        "MLP 3072-1024-512-10": (lambda: mlp(3072, 1024, 512, 10), (3072,), 250_000),
    }

    def __init__(self, name, bench):
        self.name, self.bench = name, bench
        self.make, self.shape, self.cells = self.ALL[name]
        self.examples, self.product, self.scores = bench.size(10_000, 20), None, "gradients formed"
        torch.manual_seed(1)
        self.x, self.y = self.data(bench.size(50_000, 40))
        self.queries = self.data(bench.size(100, 3))
        self.net, self.params = self.network(0)
        self.parameters = sum(p.numel() for p in self.params.values())
        # per-example gradients of so many examples take 4 GB; for the CNN activations decide
        self.gradient_rows = max(1, min(2_000, 10**9 // self.parameters))

    def data(self, n):
        device = self.bench.device
        return torch.randn(n, *self.shape, device=device), torch.randint(CLASSES, (n,), device=device)

    def network(self, seed):
        """The network with default initialisation and logits of unit size; its parameters by name, detached."""
        torch.manual_seed(seed)
        net = self.make().to(self.bench.device)
        with torch.no_grad():
            size = net(self.x[:1000]).std()
            net[-1].weight /= size
            net[-1].bias /= size
        return net, {name: p.detach() for name, p in net.named_parameters()}

    def logits(self, params, x):
        return functional_call(self.net, params, (x,))

    def losses(self, params, x, y):
        return F.cross_entropy(self.logits(params, x), y, reduction="none")

    def rows(self, k):
        """Examples in one pass with `k` directions: a divisor of n, so that all passes have one shape."""
        most = max(1, self.cells // k)
        return max(d for d in range(1, self.examples + 1) if self.examples % d == 0 and d <= most)

    def passes(self, rows, most=None, examples=None):
        """At most `most` pairs of `rows` inputs and labels."""
        return islice(zip(self.x[:examples].split(rows), self.y[:examples].split(rows)), most)

    def directions(self, k):
        torch.manual_seed(2)
        return {name: torch.randn(k, *p.shape, device=p.device) for name, p in self.params.items()}

    def gradients(self, params, x, y):
        """Per-example gradients, formed: (n, shape) by parameter."""
        one = grad(lambda p, x, y: self.losses(p, x[None], y[None])[0])
        return vmap(one, in_dims=(None, 0, 0))(params, x, y)


def count(v):
    return len(next(iter(v.values())))


def over_directions(one, v):
    """`one` of every direction of the block `v`, by vmap; a single direction goes without."""
    if count(v) > 1:
        return vmap(one)(v)
    return {name: t[None] for name, t in one({name: t[0] for name, t in v.items()}).items()}


def backward(outputs, inputs, cotangents):
    """torch.autograd.grad for a batch of cotangents (k, shape); keeps the graph."""
    outputs, cotangents = list(outputs), list(cotangents)
    if len(cotangents[0]) > 1:
        return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, is_grads_batched=True)
    single = torch.autograd.grad(outputs, inputs, [c[0] for c in cotangents], retain_graph=True)
    return [t[None] for t in single]


def output_hessian(z, rz, n):
    """Hessian of the mean cross-entropy at the logits `z`, times `rz`: (diag(p) - p p^T) rz / n."""
    p = F.softmax(z, dim=-1)
    return p * (rz - (p * rz).sum(-1, keepdim=True)) / n


def hessian_variants(problem):
    params, n = problem.params, problem.examples

    def forward_over_reverse(v, x, y):
        gradient = grad(lambda p: problem.losses(p, x, y).sum() / n)
        return over_directions(lambda d: jvp(gradient, (params,), (d,))[1], v)

    def double_backward(v, x, y):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        loss = problem.losses(leaves, x, y).sum() / n
        gradient = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        return dict(zip(leaves, backward(gradient, list(leaves.values()), v.values())))

    return {"double backward": double_backward, "jvp of grad": forward_over_reverse}


def gauss_newton_variants(problem):
    params, n = problem.params, problem.examples

    def jvp_and_vjp(v, x, y):
        network = lambda p: problem.logits(p, x)
        z, pull = vjp(network, params)
        return over_directions(lambda d: pull(output_hessian(z, jvp(network, (params,), (d,))[1], n))[0], v)

    def three_backwards(v, x, y):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        z = problem.logits(leaves, x)
        u = torch.zeros_like(z, requires_grad=True)
        pulled = torch.autograd.grad(z, list(leaves.values()), u, create_graph=True)  # J^T u, linear in u
        (rz,) = backward(pulled, [u], v.values())
        cotangents = output_hessian(z.detach(), rz, n)
        return dict(zip(leaves, backward([z], list(leaves.values()), [cotangents])))

    return {"three backwards": three_backwards, "jvp and vjp": jvp_and_vjp}


def summed(chunk, problem, rows):
    """The product over all examples, from `chunk(v, x, y)` for `rows` of them."""

    def product(v, passes=None):
        total = None
        for part in problem.passes(rows, passes, problem.examples):
            new = chunk(v, *part)
            total = new if total is None else {name: t.add_(new[name]) for name, t in total.items()}
        return total

    return product


def one_at_a_time(chunk, problem):
    single = summed(chunk, problem, problem.rows(1))

    def product(v, passes=None):
        columns = range(count(v))[:passes]
        blocks = [single({name: t[j : j + 1] for name, t in v.items()}, passes) for j in columns]
        return {name: torch.cat([b[name] for b in blocks]) for name in v}

    return product


def product_work(problem, work, full):
    """Times all variants of one product with `full` directions (fewer at a small scale). Keeps the one for CG."""
    bench, k = problem.bench, 1 if full == 1 else problem.bench.size(full, 2)
    rows, v, what = problem.rows(k), problem.directions(k), f"{work}-{full}, {problem.name}"
    chunks = hessian_variants(problem) if work == "hessian" else gauss_newton_variants(problem)
    forward, chunk = list(chunks.items())[-1]
    products = {name: summed(c, problem, rows) for name, c in chunks.items()}
    if k > 1:
        products[f"{forward}, one at a time"] = one_at_a_time(chunk, problem)
    products[f"{forward}, compiled"] = summed(torch.compile(chunk, dynamic=False), problem, rows)
    torch._dynamo.reset()  # it keeps only a few compiled forms of one function
    timed = bench.trial(what, products, v)
    if bench.cuda and full <= 16 and (name := fastest(timed)):  # launches may bind
        timed |= bench.trial(what, {f"{name}, CUDA graph": graphed(products[name])}, v)
    name = bench.best(f"{work}-{full}", problem.name, timed, n=problem.examples, k=k, rows_per_pass=rows)
    if name and (work, full) == ("gauss-newton", 100):
        problem.product = products[name], name, timed[name]["seconds"]


def dots(a, b):
    """Inner products of the columns of two blocks: (k,)."""
    return sum((a[name] * b[name]).flatten(1).sum(1) for name in a)


def combine(a, coefficients, b):
    """a + coefficients b, one coefficient per column."""
    return {name: torch.addcmul(t, coefficients.view(-1, *[1] * (t.dim() - 1)), b[name]) for name, t in a.items()}


def damped(product, v):
    return {name: t.add_(v[name], alpha=DAMPING) for name, t in product(v).items()}


def conjugate_gradients(product, b, iterations):
    """`iterations` steps on (product + DAMPING I) x = b from x = 0. Returns x and the largest relative residual."""
    x, r, p = {name: torch.zeros_like(t) for name, t in b.items()}, b, b
    rr = start = dots(r, r)
    for _ in range(iterations):
        q = damped(product, p)
        step = rr / dots(p, q)
        x, r = combine(x, step, p), combine(r, -step, q)
        old, rr = rr, dots(r, r)
        p = combine(r, rr / old, p)
    return x, (rr / start).sqrt().max()


def cg_work(problem):
    """CG with the fastest Gauss-Newton product. Fewer iterations, multiplied, where 20 exceed 1/15 of the budget."""
    bench = problem.bench
    if problem.product is None:
        product_work(problem, "gauss-newton", 100)
    if problem.product is None:
        return
    product, name, each = problem.product
    b = problem.gradients(problem.params, *problem.queries)
    timed = max(2, min(CG_ITERATIONS, int(bench.spare(1 / 15) / each)))
    conjugate_gradients(product, b, 1)
    (x, recurrence), seconds = bench.call(lambda: conjugate_gradients(product, b, timed))
    residual = {key: b[key] - t for key, t in damped(product, x).items()}
    true = float((dots(residual, residual) / dots(b, b)).sqrt().max())
    # in f32 the recurrence drifts from the true residual with the condition of the system: a wide bound, for mistakes
    drift = abs(true - float(recurrence)) / max(1, true)
    bench.check(f"cg, {problem.name}, recurrence beside residual {true:.1e}", drift, 1e-2)
    bench.record("cg-100", problem.name, "f32", seconds * CG_ITERATIONS / timed, 1, {
        "fastest": name, "n": problem.examples, "k": count(b), "damping": DAMPING, "iterations": CG_ITERATIONS,
        "iterations_timed": timed, "extrapolated": timed < CG_ITERATIONS, "largest_residual": true,
        "by_recurrence": float(recurrence), "product_seconds": each})


def layer_statistics(net, x):
    """Per layer with weights: inputs with a one appended (b, T, in + 1), and gradients at the outputs for each label
    times the square root of its probability (classes, b, T, out). T: positions of a convolution, 1 for a dense layer.
    Sums over classes of products of two such gradients are exact expectations over labels drawn from the model."""
    inputs, outputs, h = [], [], x
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            inputs.append(F.unfold(h, layer.kernel_size, padding=layer.padding).transpose(1, 2).detach())
        elif isinstance(layer, nn.Linear):
            inputs.append(h[:, None].detach())
        h = layer(h)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            outputs.append(h)
    p = F.softmax(h, dim=1).detach()
    cotangents = p.sqrt().T[:, :, None] * (p - torch.eye(CLASSES, device=x.device)[:, None])
    deltas = backward([h], outputs, [cotangents])
    inputs = [F.pad(a, (0, 1), value=1.0) for a in inputs]
    return [(a, d.flatten(3).transpose(2, 3) if d.dim() == 5 else d[:, :, None]) for a, d in zip(inputs, deltas)]


def covariances(problem):
    """Per layer the sums over examples and positions of a a^T and d d^T, divided by n."""
    n, sums = problem.examples, None
    for x, _ in problem.passes(1_000, None, n):
        pairs = [(a.flatten(0, 1), d.flatten(0, 2)) for a, d in layer_statistics(problem.net, x)]
        new = [(a.T @ a / n, d.T @ d / n) for a, d in pairs]
        sums = new if sums is None else [(s.add_(a), t.add_(d)) for (s, t), (a, d) in zip(sums, new)]
    return sums


def rotated_gradients(a, d, qa, qg):
    """Sum over examples and classes of (Q_G^T g Q_A)^2, each gradient g = sum_t d_t a_t^T formed and rotated."""
    total = 0
    size = max(1, 10**9 // (4 * len(qa) * len(qg)))
    for label in d:
        for a_part, d_part in zip(a.split(size), label.split(size)):
            g = torch.einsum("bto,bti->boi", d_part, a_part)
            total = total + (qg.T @ (g @ qa)).square().sum(0)
    return total


def rotated_factors(a, d, qa, qg):
    """The same from rotated inputs and deltas: for a dense layer ((D Q_G)^2)^T (A Q_A)^2, one product."""
    a, d = a @ qa, d @ qg
    if a.shape[1] == 1:
        return d[:, :, 0].square().sum(0).T @ a[:, 0].square()
    return sum(torch.einsum("bto,bti->boi", label, a).square().sum(0) for label in d)


def correction(problem, form, bases, examples):
    """The function that computes the eigenvalue corrections of all layers by `form`, over some examples."""

    def run(passes=None):
        total = {i: 0 for i in range(len(bases))}
        for x, _ in problem.passes(1_000, passes, examples):
            for i, ((a, d), (qa, qg)) in enumerate(zip(layer_statistics(problem.net, x), bases)):
                total[i] = total[i] + form(a, d, qa, qg) / examples
        return total

    return run


def ekfac_work(problem):
    """Covariances, eigenbases and correction. Where rotating every gradient is too much work, it is timed on a part of
    the examples, and both forms are compared on that part."""
    bench, n, what = problem.bench, problem.examples, f"ekfac correction, {problem.name}"
    eigenbases = lambda sums: [tuple(torch.linalg.eigh(s)[1] for s in pair) for pair in sums]
    eigenbases(covariances(problem))  # warm
    sums, first = bench.measure(lambda: covariances(problem))
    bases, second = bench.measure(lambda: eigenbases(sums))
    flops = sum(2 * CLASSES * len(qa) * len(qg) * (len(qa) + len(qg)) for qa, qg in bases)  # of an example
    part = max(1, min(n, int(1e14 * bench.scale / flops)))
    forms = {"gradients rotated": rotated_gradients, "factors rotated": rotated_factors}
    done = bench.trial(f"{what}, {part} examples",
                       {name: correction(problem, form, bases, part) for name, form in forms.items()})
    if part < n:
        if "seconds" in (slow := done["gradients rotated"]):
            slow |= {"seconds": slow["seconds"] * n / part, "examples_timed": part, "extrapolated": True}
        whole = bench.trial(what, {"factors rotated": correction(problem, rotated_factors, bases, n)})
        whole["factors rotated"]["difference"] = done["factors rotated"].get("difference")  # seen on the part
        done |= whole
    for row in done.values():
        if "seconds" in row:
            row["correction_seconds"] = row["seconds"]
            row["seconds"] += first["seconds"] + second["seconds"]
    bench.best("ekfac", problem.name, done, n=n, classes=CLASSES, eigendecomposition="f32",
               covariance_seconds=first["seconds"], eigen_seconds=second["seconds"])


def scores_from_gradients(problem, params, v, passes):
    """<g_i, v_j>, (n, k), from per-example gradients of some examples at a time."""
    scores, columns = [], {name: t.flatten(1).T for name, t in v.items()}
    for x, y in problem.passes(problem.gradient_rows, passes):
        g = problem.gradients(params, x, y)
        scores.append(sum(g[name].flatten(1) @ t for name, t in columns.items()))
    return torch.cat(scores)


def scores_forward(problem, params, v, passes):
    """The same as derivatives of the losses along each vector."""
    along = lambda d, x, y: jvp(lambda p: problem.losses(p, x, y), (params,), (d,))[1]
    parts = problem.passes(max(1, problem.cells // count(v)), passes)
    return torch.cat([vmap(along, in_dims=(0, None, None))(v, *part) for part in parts], dim=1).T


SCORES = {"gradients formed": scores_from_gradients, "jvp of losses": scores_forward}


def scoring_work(problem):
    v = problem.directions(len(problem.queries[1]))
    run = lambda form: lambda passes=None: {"scores": form(problem, problem.params, v, passes)}
    rows = problem.bench.trial(f"scoring, {problem.name}", {name: run(form) for name, form in SCORES.items()})
    name = problem.bench.best("scoring", problem.name, rows, n=len(problem.x), k=count(v))
    problem.scores = name or problem.scores


def tracin_work(problem):
    """By the way of scoring that was the fastest, or with gradients formed where scoring was not timed."""
    checkpoints = [problem.network(seed)[1] for seed in range(CHECKPOINTS)]

    def run(passes=None):
        total = 0
        for params in checkpoints[:passes]:
            v = problem.gradients(params, *problem.queries)
            total = total + LEARNING_RATE * SCORES[problem.scores](problem, params, v, passes)
        return {"scores": total}

    rows = problem.bench.trial(f"tracin, {problem.name}", {problem.scores: run})
    sizes = {"n": len(problem.x), "k": len(problem.queries[1]), "checkpoints": CHECKPOINTS}
    problem.bench.best("tracin", problem.name, rows, **sizes)


def rates_work(bench):
    products = [("f32", 8192, torch.float32), ("tf32", 8192, torch.float32),
                ("bf16", 8192, torch.bfloat16), ("f64", 4096, torch.float64)]
    for precision, full, dtype in products:
        n = bench.size(full, 64)
        a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
        allow_tf32(precision == "tf32")
        rate(bench, "gemm", f"{n}x{n}x{n}", precision, lambda: a @ b, flops=2 * n**3)
        allow_tf32(False)
    n = bench.size(2**30, 2**10)
    a, b = (torch.randn(n, device=bench.device) for _ in range(2))
    rate(bench, "copy", f"{n} numbers", "f32", lambda: b.copy_(a), bytes_read_and_written=2 * 4 * n)


def rate(bench, work, size, precision, f, **counted):
    f()
    _, row = bench.measure(f)
    detail = counted | {f"{what}_per_second": number / row["seconds"] for what, number in counted.items()}
    bench.record(f"rate-{work}", size, precision, row["seconds"], row["repeats"], detail)


def allow_tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


WORK_FUNCTIONS = {
    "hessian": lambda problem: [product_work(problem, "hessian", k) for k in (100, 1, 16)],
    "gauss-newton": lambda problem: [product_work(problem, "gauss-newton", k) for k in (100, 1, 16)],
    "cg": cg_work, "ekfac": ekfac_work, "scoring": scoring_work, "tracin": tracin_work,
}
WORKS = ["rates", *WORK_FUNCTIONS]


def run(bench, only, compile_seconds):
    allow_tf32(False)
    torch.backends.cudnn.benchmark = True  # convolutions by the fastest f32 algorithm
    vmap(lambda v: jvp(grad(torch.sin), (v,), (v,))[1])(torch.ones(2))  # torch loads these on first use
    signal.signal(signal.SIGALRM, too_long)
    if "rates" in only:
        rates_work(bench)
    for name in Problem.ALL:
        problem = Problem(name, bench)
        bench.compile_left += compile_seconds / len(Problem.ALL)
        for work in (work for work in WORK_FUNCTIONS if work in only):
            try:
                WORK_FUNCTIONS[work](problem)
            except torch.OutOfMemoryError:
                print(f"{work}, {name}: out of memory, skipped", flush=True)
            bench.free()
        del problem
    detail = {"torch": torch.__version__, "cuda": torch.version.cuda, "scale": bench.scale, "works": only,
              "device": torch.cuda.get_device_name(bench.device) if bench.cuda else "cpu",
              "allow_tf32": False, "cudnn_benchmark": True, "threads": torch.get_num_threads(),
              "date": time.strftime("%Y-%m-%d"), "variants_agree": not bench.mismatch, "tolerance": TOLERANCE}
    bench.record("settings", "", "", time.perf_counter() - bench.start, 1, detail)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--out", default="peer.json", help="JSON of the results")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes by this factor; the models stay")
    parser.add_argument("--budget", type=float, default=150, help="seconds that the run should take")
    parser.add_argument("--compile-seconds", type=float, default=60, help="for all of torch.compile; 0: none")
    parser.add_argument("--only", default=",".join(WORKS), help="works, with commas")
    options = parser.parse_args()
    only = options.only.split(",")
    if unknown := [work for work in only if work not in WORKS]:
        parser.error(f"unknown work {unknown[0]}; there are {', '.join(WORKS)}")
    if not 0 < options.scale <= 1 or not options.budget > 0:
        parser.error("--scale must be above 0 and at most 1, --budget above 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device that this torch can use")
    try:
        open(options.out + ".tmp", "w").close()
    except OSError as e:
        parser.error(f"--out: {e}")
    bench = Bench(options)
    run(bench, only, options.compile_seconds)
    sys.exit(1 if bench.mismatch else 0)


if __name__ == "__main__":
    main()
