"""Hessian-vector products in PyTorch by double backward, for comparison with `benches/networks.rs`.

    python benches/torch/double_backward.py

The two networks of that bench, f32 on the CPU, 512 examples, 1 and 2 threads. The gradient with its graph is
formed once and serves all directions; a direction is one more backward pass through it. Prints milliseconds
per direction and 1000 examples, the best of several runs: the unit that the bench prints as well.
"""

import time

import torch
from torch import nn

EXAMPLES = 512
DIRECTIONS = 8
RUNS = 4


def networks():
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 10),
    )
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    return {"CNN": cnn, "MLP": mlp}


def products(model, x, y, directions):
    """Seconds for `H v` of every direction, the gradient included."""
    parameters = list(model.parameters())
    start = time.perf_counter()
    loss = nn.functional.cross_entropy(model(x), y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    for v in directions:
        torch.autograd.grad(gradient, parameters, grad_outputs=v, retain_graph=True)
    return time.perf_counter() - start


def main():
    torch.manual_seed(0)
    x, y = torch.randn(EXAMPLES, 1, 28, 28), torch.arange(EXAMPLES) % 10
    for name, model in networks().items():
        directions = [[torch.randn_like(p) for p in model.parameters()] for _ in range(DIRECTIONS)]
        for threads in (1, 2):
            torch.set_num_threads(threads)
            products(model, x, y, directions[:2])
            best = min(products(model, x, y, directions) for _ in range(RUNS))
            each = 1e3 * best / DIRECTIONS * 1000 / EXAMPLES
            print(f"{name} double backward, {threads} threads: {each:.1f} ms per direction and 1000 examples", flush=True)


if __name__ == "__main__":
    main()
