"""Networks as PyTorch has them, and what PyTorch computes with them, for tests/tests/it/interop.rs.

    python -m pip install torch safetensors numpy
    python tests/interop/make.py

writes for each network a folder beside this file with

    model.toml           the network, as influence reads it
    weights.safetensors  its state_dict(), unchanged
    dump.safetensors     inputs x (exact in float32) and classes y of a few examples; logits, losses; and by
                         the names of the state_dict a random direction v, the gradient of the mean loss, and
                         the products of its Hessian and Gauss-Newton matrix with v: direction.NAME,
                         gradient.NAME, hessian.NAME, ggn.NAME

All in float64, in eval mode, from fixed seeds; another version of PyTorch may change the last digits.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, grad, jvp, vjp

MLP = nn.Sequential(
    nn.Linear(12, 10),
    nn.GELU(),
    nn.Dropout(0.5),
    nn.Linear(10, 8),
    nn.Tanh(),
    nn.Linear(8, 6, bias=False),
    nn.GELU(approximate="tanh"),
    nn.Linear(6, 4),
)

MLP_TOML = """\
input = [12]
loss = "cross-entropy"

[[layer]]
type = "dense"
name = "0"
out = 10

[[layer]]
type = "gelu"

[[layer]]
type = "dropout"

[[layer]]
type = "dense"
name = "3"
out = 8

[[layer]]
type = "tanh"

[[layer]]
type = "dense"
name = "5"
out = 6
bias = false

[[layer]]
type = "gelu"
approximate = "tanh"

[[layer]]
type = "dense"
name = "7"
out = 4
"""

CNN = nn.Sequential(
    nn.Conv2d(2, 4, 3, stride=2, padding=1),
    nn.BatchNorm2d(4),
    nn.ReLU(),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.Conv2d(4, 5, 3, padding=1, bias=False),
    nn.LeakyReLU(0.2),
    nn.AvgPool2d(3, stride=2, padding=1),
    nn.Flatten(),
    nn.Linear(20, 3),
)

CNN_TOML = """\
input = [2, 9, 9]
loss = "cross-entropy"

[[layer]]
type = "conv2d"
name = "0"
out = 4
kernel = 3
stride = 2
padding = 1

[[layer]]
type = "batch_norm"
name = "1"

[[layer]]
type = "relu"

[[layer]]
type = "max_pool"
size = 3
stride = 2
padding = 1

[[layer]]
type = "conv2d"
name = "4"
out = 5
kernel = 3
padding = 1
bias = false

[[layer]]
type = "leaky_relu"
slope = 0.2

[[layer]]
type = "avg_pool"
size = 3
stride = 2
padding = 1

[[layer]]
type = "flatten"

[[layer]]
type = "dense"
name = "8"
out = 3
"""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(nn.functional.softplus(self.norm(self.conv1(x))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = Block()
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.sigmoid(self.block(nn.functional.selu(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


RESIDUAL_TOML = """\
input = [3, 6, 6]
loss = "cross-entropy"

[[layer]]
type = "conv2d"
name = "stem"
out = 4
kernel = 3
padding = 1

[[layer]]
type = "selu"

[[layer]]
type = "residual"

[[layer.layer]]
type = "conv2d"
name = "block.conv1"
out = 4
kernel = 3
padding = 1

[[layer.layer]]
type = "batch_norm"
name = "block.norm"
eps = 1e-3

[[layer.layer]]
type = "softplus"

[[layer.layer]]
type = "conv2d"
name = "block.conv2"
out = 4
kernel = 3
padding = 1

[[layer]]
type = "sigmoid"

[[layer]]
type = "global_avg_pool"

[[layer]]
type = "flatten"

[[layer]]
type = "dense"
name = "head"
out = 5
"""


def randomise(model):
    """Parameters and running statistics that a trained network could have."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 2.0)
            module.num_batches_tracked.fill_(17)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=1.2 / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)


def dump(model, x, y):
    theta = {name: value.detach() for name, value in model.named_parameters()}
    v = {name: torch.randn_like(value) for name, value in theta.items()}

    def outputs(theta):
        return functional_call(model, theta, (x,))

    def mean_loss(logits):
        return nn.functional.cross_entropy(logits, y)

    def risk(theta):
        return mean_loss(outputs(theta))

    logits, tangent = jvp(outputs, (theta,), (v,))
    _, hessian = jvp(grad(risk), (theta,), (v,))
    # J^T (d2 l / dz2) J v, and 1/n is in the mean.
    _, bent = jvp(grad(mean_loss), (logits,), (tangent,))
    ggn = vjp(outputs, theta)[1](bent)[0]

    parts = {"direction": v, "gradient": grad(risk)(theta), "hessian": hessian, "ggn": ggn}
    named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    return {"x": x.float(), "y": y, "logits": logits, "losses": losses, **named}


def write(name, seed, model, description, shape, classes, examples):
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        randomise(model)
    x = torch.randn(examples, *shape, dtype=torch.float32).double()
    y = torch.randint(classes, (examples,))
    folder = Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    (folder / "model.toml").write_text(description)
    save_file(model.state_dict(), folder / "weights.safetensors")
    save_file({k: t.contiguous() for k, t in dump(model, x, y).items()}, folder / "dump.safetensors")


write("mlp", 1, MLP, MLP_TOML, [12], 4, 16)
write("cnn", 2, CNN, CNN_TOML, [2, 9, 9], 3, 10)
write("residual", 3, Residual(), RESIDUAL_TOML, [3, 6, 6], 5, 10)
