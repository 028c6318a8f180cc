"""Sixty-three ways to spoil a training, each with the causes that count as a right answer.

A fault changes a program in place and returns False where it makes no sense. Whether it hurt is told by the outcome.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from benchmarks.doctor.programs import Program

Mutation = Callable[[Program], bool | None]


@dataclass(frozen=True)
class Fault:
    number: int
    name: str
    spoil: Mutation
    causes: frozenset[str]
    """Slugs of the doctor, any of which is a right answer."""
    resource: bool = False
    """Spoils speed, memory or repeatability, not the score: always counts as hurting."""


FAULTS: list[Fault] = []


def fault(number: int, *causes: str, resource: bool = False) -> Callable[[Mutation], Mutation]:
    def enter(spoil: Mutation) -> Mutation:
        FAULTS.append(Fault(number, spoil.__name__, spoil, frozenset(causes), resource))
        return spoil

    return enter


def modules(p: Program, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [module for module in p.model.modules() if isinstance(module, kinds)]


def replaced(model: nn.Module, kind: type[nn.Module], make: Callable[[], nn.Module]) -> bool:
    found = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make())
                found = True
    return found


def rate(p: Program, factor: float) -> None:
    make = p.optimizer

    def scaled(parameters: Any) -> torch.optim.Optimizer:
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        return optimizer

    p.optimizer = scaled


def optimizer(p: Program, **changes: Any) -> bool:
    """The program's Adam (or AdamW) with other constants."""
    if not isinstance(p.optimizer([nn.Parameter(torch.zeros(1))]), torch.optim.Adam):
        return False
    old = p.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]
    keep = {name: old[name] for name in ("lr", "betas", "eps")}
    p.optimizer = lambda parameters: torch.optim.Adam(parameters, **{**keep, **changes})
    return True


def inputs(p: Program, change: Callable[[Tensor], Tensor]) -> bool:
    if not p.train[0].is_floating_point():
        return False
    p.train, p.val = ((change(x), change(y) if y is x else y) for x, y in (p.train, p.val))
    return True


def targets(p: Program, change: Callable[[Tensor], Tensor], both: bool = True) -> None:
    p.train = (p.train[0], change(p.train[1]))
    if both:
        p.val = (p.val[0], change(p.val[1]))


def initial(p: Program, change: Callable[[Tensor], None]) -> bool:
    with torch.no_grad():
        for module in p.model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim >= 2 and "norm" not in name:
                    change(parameter)
    return True


def supervised(p: Program) -> bool:
    return p.kind in {"classes", "tokens", "binary", "regression"}


def output(p: Program, change: Callable[[Tensor], Tensor]) -> bool:
    """A last operation that does not belong there."""
    if p.kind not in {"classes", "binary", "regression"}:
        return False
    inner = p.model
    p.model = nn.Sequential(inner, Operation(change))
    return True


class Operation(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


# ------------------------------------------------------------------------------------------------ optimisation


@fault(1, "lr-too-high", "exploding-gradient")
def lr_times_100(p: Program):
    rate(p, 100)


@fault(2, "lr-too-low", "stopped-too-early")
def lr_times_1e_4(p: Program):
    rate(p, 1e-4)


@fault(3, "scheduler-collapse", "lr-too-low")
def schedule_collapses(p: Program):
    p.schedule = lambda optimizer, steps: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


@fault(4, "lr-too-low", "optimizer-constants")
def plain_sgd(p: Program):
    p.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=p.lr)
    return p.name in {"encoder", "causal_lm", "lstm_adding", "gru_waves", "vit"}


@fault(5, "missing-zero-grad")
def no_zero_grad(p: Program):
    p.habits.add("no zero_grad")


@fault(6, "missing-step")
def no_step(p: Program):
    p.habits.add("no step")


@fault(7, "parameter-not-in-optimizer")
def part_not_in_optimizer(p: Program):
    p.parameters = lambda model: list(model.parameters())[-2:]
    return p.kind != "gan"


@fault(8, "frozen-parameters", "parameter-not-in-optimizer")
def frozen(p: Program):
    for parameter in list(p.model.parameters())[:-2]:
        parameter.requires_grad_(False)
    p.parameters = lambda model: [parameter for parameter in model.parameters() if parameter.requires_grad]
    return p.kind != "gan"


@fault(9, "excessive-weight-decay")
def decay_of_1(p: Program):
    return optimizer(p, weight_decay=1.0)


@fault(10, "excessive-clipping", "lr-too-low")
def clip_at_1e_4(p: Program):
    p.clip = 1e-4
    p.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return p.kind != "gan"


@fault(11, "optimizer-constants", "lr-too-low")
def eps_of_0_1(p: Program):
    return optimizer(p, eps=0.1)


@fault(12, "optimizer-constants")
def betas_swapped(p: Program):
    return optimizer(p, betas=(0.999, 0.9))


@fault(13, "batchnorm-tiny-batch", "train-eval-mismatch", "lr-too-high")
def batch_of_2_with_norm(p: Program):
    p.batch_size, p.epochs = 2, 1
    return bool(modules(p, nn.BatchNorm2d, nn.BatchNorm1d))


@fault(14, "lr-too-low", "stopped-too-early")
def huge_batch_low_rate(p: Program):
    p.batch_size = len(p.train[0])
    rate(p, 0.05)
    return p.kind != "gan"


# ------------------------------------------------------------------------------------------------ initial values


@fault(15, "symmetric-init", "init-scale", "vanishing-gradient")
def zero_init(p: Program):
    return initial(p, lambda w: w.zero_())


@fault(16, "symmetric-init", "init-scale")
def constant_init(p: Program):
    return initial(p, lambda w: w.fill_(0.05))


@fault(17, "init-scale", "loss-at-init", "exploding-gradient", "saturation")
def init_times_30(p: Program):
    return initial(p, lambda w: w.mul_(30))


@fault(18, "init-scale", "vanishing-gradient")
def init_times_1e_3(p: Program):
    return initial(p, lambda w: w.mul_(1e-3))


def deep(p: Program, activation: Callable[[], nn.Module], layers: int, width: int = 32) -> bool:
    if not p.name.startswith("mlp"):
        return False
    sizes = [p.train[0].shape[1], *[width] * layers]
    stack: list[nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        stack += [nn.Linear(inner, outer), activation()]
    p.model = nn.Sequential(*stack, nn.Linear(width, p.classes if p.kind == "classes" else 1))
    return True


@fault(19, "vanishing-gradient", "saturation")
def deep_sigmoid(p: Program):
    return deep(p, nn.Sigmoid, 12)


@fault(20, "recurrent-gradient-decay", "vanishing-gradient")
def plain_rnn(p: Program):
    cells = modules(p, nn.GRU, nn.LSTM)
    if not cells:
        return False
    old: Any = cells[0]
    model: Any = p.model
    model.cell = nn.RNN(old.input_size, old.hidden_size, batch_first=True)
    with torch.no_grad():
        model.cell.weight_hh_l0.mul_(0.5)
    return True


@fault(21, "vanishing-gradient", "init-scale")
def thirty_layers_without_residuals(p: Program):
    return deep(p, nn.ReLU, 30)


@fault(22, "dead-relu")
def dead_relu(p: Program):
    layers = modules(p, nn.Linear, nn.Conv2d)[:-1]
    with torch.no_grad():
        for layer in layers:
            layer.bias.fill_(-20) if layer.bias is not None else None
    return bool(modules(p, nn.ReLU)) and p.kind != "gan" and any(layer.bias is not None for layer in layers)


@fault(23, "saturation", "init-scale")
def saturated_tanh(p: Program):
    found = replaced(p.model, nn.ReLU, nn.Tanh)
    layers = modules(p, nn.Linear, nn.Conv2d)[:-1]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(40)
    return found and p.kind != "gan"


# -------------------------------------------------------------------------------------------- output and loss


@fault(24, "double-softmax")
def double_softmax(p: Program):
    return p.kind == "classes" and output(p, lambda x: x.softmax(-1))


@fault(25, "missing-output-activation", "non-finite-loss")
def bce_without_sigmoid(p: Program):
    p.loss = lambda output, y: F.binary_cross_entropy(output.clamp(0, 1), y)
    return p.kind == "binary"


@fault(26, "missing-output-activation", "double-softmax", "unreachable-output-range", "disconnected-layer")
def softmax_on_one_unit(p: Program):
    p.loss = F.binary_cross_entropy
    return p.kind == "binary" and output(p, lambda x: x.softmax(-1))


@fault(27, "softmax-wrong-axis", "double-softmax", "samples-mixed-in-batch")
def softmax_over_batch(p: Program):
    return p.kind == "classes" and output(p, lambda x: x.softmax(0))


@fault(28, "unreachable-output-range", "dead-relu")
def relu_head(p: Program):
    return p.kind == "regression" and bool((p.train[1] < 0).any()) and output(p, F.relu)


@fault(29, "unreachable-output-range", "saturation")
def sigmoid_head(p: Program):
    outside = bool(((p.train[1] < 0) | (p.train[1] > 1)).float().mean() > 0.1)
    return p.kind == "regression" and outside and output(p, torch.sigmoid)


@fault(30, "missing-nonlinearity", "capacity-too-small", "underfitting")
def no_nonlinearity(p: Program):
    return replaced(p.model, nn.ReLU, nn.Identity) and p.kind != "gan"


@fault(31, "loss-task-mismatch", "broadcast-loss")
def mse_on_class_numbers(p: Program):
    p.loss = lambda output, y: F.mse_loss(output.mean(-1), y.float())
    return p.kind == "classes"


@fault(32, "sum-reduction", "lr-too-high", "exploding-gradient")
def sum_instead_of_mean(p: Program):
    mean = p.loss
    p.loss = lambda output, y: mean(output, y) * (output.shape[0] * 4)
    p.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return supervised(p)


@fault(33, "loss-wrong-sign", "lr-too-high")
def sign_flipped(p: Program):
    p.habits.add("sign flipped")
    return p.kind != "gan"


@fault(34, "broadcast-loss")
def broadcast(p: Program):
    p.loss = lambda output, y: ((output - y.squeeze(-1)) ** 2).mean()
    return p.kind == "regression"


@fault(35, "detached-loss", "missing-step", "disconnected-layer")
def detached(p: Program):
    p.habits.add("detached")
    return p.kind != "gan"


# ------------------------------------------------------------------------------------------------------- data


@fault(36, "unscaled-input")
def inputs_times_1000(p: Program):
    return inputs(p, lambda x: x * 1000)


@fault(37, "double-normalised-input", "lr-too-low", "init-scale")
def inputs_over_255_twice(p: Program):
    return inputs(p, lambda x: x / 255**2)


@fault(38, "unscaled-target", "lr-too-low", "exploding-gradient", "lr-too-high", "loss-at-init")
def targets_times_1e4(p: Program):
    targets(p, lambda y: y * 1e4)
    return p.kind == "regression"


@fault(39, "label-scaled", "loss-task-mismatch", "label-out-of-range")
def labels_over_255(p: Program):
    targets(p, lambda y: y / 255)
    return p.kind == "binary"


@fault(40, "shuffled-labels")
def shuffled_labels(p: Program):
    targets(p, lambda y: y[torch.randperm(len(y))], both=False)
    return supervised(p) and p.name != "gcn"


@fault(41, "shuffled-labels", "overfitting")
def noisy_labels(p: Program):
    def noise(y: Tensor) -> Tensor:
        wrong = torch.rand(y.shape) < 0.4
        return torch.where(wrong, torch.randint_like(y, p.classes), y)

    if p.kind != "classes":
        return False
    targets(p, noise, both=False)
    return True


@fault(42, "unshuffled-loader")
def sorted_by_class(p: Program):
    if p.kind not in {"classes", "binary"}:
        return False
    order = p.train[1].flatten().argsort()
    p.train, p.shuffle = (p.train[0][order], p.train[1][order]), False
    return True


@fault(43, "class-imbalance")
def imbalance(p: Program):
    y = p.train[1].flatten()
    if p.kind not in {"classes", "binary"} or p.name == "gcn":
        return False
    rare = y > 0
    kept = ~rare | (torch.rand(len(y)) < 0.01)
    kept[rare.nonzero()[: p.classes]] = True
    p.train = (p.train[0][kept], p.train[1][kept])
    return True


@fault(44, "non-finite-data", "non-finite-loss")
def nan_in_one_sample(p: Program):
    if not p.train[0].is_floating_point():
        return False
    x = p.train[0].clone()
    x[7].view(-1)[0] = math.nan
    p.train = (x, x if p.train[1] is p.train[0] else p.train[1])
    return True


@fault(45, "train-val-leakage", resource=True)
def leakage(p: Program):
    p.train = (torch.cat([p.train[0], p.val[0]]), torch.cat([p.train[1], p.val[1]]))
    return supervised(p) and p.name != "gcn"


@fault(46, "overfitting", "dataset-too-small")
def tiny_data(p: Program):
    p.train = (p.train[0][:40], p.train[1][:40])
    p.epochs, p.batch_size = 60, 20
    return supervised(p) and p.name != "gcn"


@fault(47, "capacity-too-small", "underfitting")
def tiny_model(p: Program):
    if not p.name.startswith("mlp"):
        return False
    p.model = nn.Sequential(
        nn.Linear(p.train[0].shape[1], 1), nn.ReLU(), nn.Linear(1, p.classes if p.kind == "classes" else 1)
    )
    return True


@fault(48, "excessive-dropout")
def dropout_of_0_95(p: Program):
    found = replaced(p.model, nn.Dropout, lambda: nn.Dropout(0.95))
    return replaced(p.model, nn.ReLU, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.95))) or found


@fault(49, "train-eval-mismatch")
def eval_forgotten(p: Program):
    p.habits.add("no eval()")
    return replaced(p.model, nn.Dropout, lambda: nn.Dropout(0.7)) or bool(modules(p, nn.BatchNorm2d))


@fault(50, "train-eval-mismatch")
def train_never_restored(p: Program):
    p.habits.add("train() never restored")
    p.model.eval()
    return bool(modules(p, nn.Dropout, nn.BatchNorm2d))


@fault(51, "samples-mixed-in-batch")
def view_instead_of_transpose(p: Program):
    def mix(x: Tensor) -> Tensor:
        return x.transpose(0, 1).reshape(x.shape) if x.ndim == 2 else x.flatten(1).T.reshape(x.shape)

    if p.kind not in {"classes", "binary", "regression"} or not p.train[0].is_floating_point():
        return False
    p.model = nn.Sequential(Operation(mix), p.model)
    return True


@fault(52, "mask-leak")
def causal_mask_missing(p: Program):
    model: Any = p.model
    if p.kind != "tokens":
        return False

    def forward(model: Any, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        return model.head(model.norm(model.layers(model.tokens(tokens) + model.positions(torch.arange(n)))))

    model.__class__ = type("Encoder", (type(model),), {"forward": forward})
    return True


@fault(53, "mask-leak", "non-finite-loss", "attention-collapse")
def rows_that_see_nothing(p: Program):
    model: Any = p.model
    if p.kind != "tokens":
        return False

    def forward(model: Any, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = model.tokens(tokens) + model.positions(torch.arange(n))
        return model.head(model.norm(model.layers(x, mask=torch.full((n, n), -math.inf))))

    model.__class__ = type("Encoder", (type(model),), {"forward": forward})
    return True


# --------------------------------------------------------------------------- resources, numbers, and length


class Changed(Dataset):
    """The samples of another data set, each changed when it is read."""

    def __init__(self, data: Any, change: Callable[[Any], Any]):
        self.data, self.change = data, change

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.change(self.data[index])


@fault(54, "loader-bound", resource=True)
def slow_loader(p: Program):
    def wait(sample: Any) -> Any:
        time.sleep(0.002)
        return sample

    p.dataset = lambda data: Changed(data, wait)
    p.epochs = 2
    return p.kind != "gan"


@fault(59, "duplicated-worker-randomness", resource=True)
def workers_draw_the_same(p: Program):
    generator = np.random.default_rng(0)  # every worker gets a copy in the same state

    def augment(sample: Any) -> Any:
        x, y = sample
        return x + 0.05 * torch.from_numpy(generator.standard_normal(x.shape)).float(), y

    p.dataset, p.workers = lambda data: Changed(data, augment), 2
    p.epochs = 2
    return p.train[0].is_floating_point() and p.kind in {"classes", "regression"} and p.name != "gcn"


@fault(56, "memory-growth", resource=True)
def losses_kept(p: Program):
    p.habits.add("losses kept")
    return p.kind != "gan"


@fault(55, "sync-bound", resource=True)
def numbers_fetched(p: Program):
    loss, count = p.loss, sum(parameter.numel() for parameter in p.model.parameters())

    def logged(output: Any, y: Tensor) -> Tensor:
        for _ in range(math.ceil(100_000 / count)):  # as a logger of histograms does with a larger network
            [parameter.detach().cpu().tolist() for parameter in p.model.parameters()]
        return loss(output, y)

    p.loss = logged
    return p.kind != "gan"


@fault(57, "low-occupancy", resource=True)
def batch_of_2(p: Program):
    p.batch_size, p.epochs = 2, 1
    return supervised(p) and not modules(p, nn.BatchNorm2d, nn.BatchNorm1d)


@fault(58, "near-out-of-memory", resource=True)
def memory_nearly_full(p: Program):
    p.habits.add("memory nearly full")
    return p.kind != "gan"


@fault(61, "non-finite-loss", "lr-too-high")
def log_of_zero(p: Program):
    p.loss = lambda output, y: -(200 * output).softmax(-1).log()[torch.arange(len(y)), y].mean()
    return p.kind == "classes"


@fault(60, "irreproducible", resource=True)
def unseeded_noise(p: Program):
    def noisy(x: Tensor) -> Tensor:
        fresh = np.random.default_rng()  # from the system's entropy: no seed of the script reaches it
        return x + 0.01 * torch.from_numpy(fresh.standard_normal(x.shape)).float()

    return output(p, noisy)


@fault(62, "amp-overflow", "non-finite-loss", resource=True)
def overflow_in_16_bits(p: Program):
    p.habits.add("16 bits")
    return supervised(p)


@fault(63, "stopped-too-early", "lr-too-low")
def too_few_epochs(p: Program):
    p.epochs = 1
    return p.kind != "gan"
