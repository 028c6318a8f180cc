"""Every optimizer against its equation, written out for one parameter in plain tensors, over fifty steps."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fieldguide.optim import OPTIMIZERS, build_optimizer, set_rate

DECAY, MOMENTUM, BETAS, EPS = 0.1, 0.9, (0.8, 0.95), 1e-4
STEPS = 50
RATES = dict.fromkeys(OPTIMIZERS, 3e-3) | {"soap": 5e-5}
"""SOAP's is small because every rounding of a matrix turns the eigenvectors that the steps follow."""


def _network(dtype):
    """Kernels, matrices and vectors; the first and the last layer are not Muon's.

    No axis is longer than all others together, so that every direction of SOAP's first bases is a definite one.
    """
    torch.manual_seed(0)
    body = nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.GroupNorm(1, 6), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).to(dtype)


def _loss(output):
    return (output - torch.linspace(-1, 1, 6, dtype=output.dtype)).square().mean() + output.exp().mean()


def _factor(step):
    """A rate that moves, as a schedule moves it."""
    return 0.5 + 0.5 * math.cos(step / 10)


# ------------------------------------------------------------------------ the equations: w, g, state, t → next w


def _moments(g, s, t):
    s["m"] = BETAS[0] * s.get("m", 0) + (1 - BETAS[0]) * g
    s["v"] = BETAS[1] * s.get("v", 0) + (1 - BETAS[1]) * g * g
    return s["m"] / (1 - BETAS[0] ** t), s["v"] / (1 - BETAS[1] ** t)


def _adamw(w, g, s, t, lr, decay, inner):
    m, v = _moments(g, s, t)
    return w * (1 - lr * decay) - lr * m / (v.sqrt() + EPS)


def _adam(w, g, s, t, lr, decay, inner):
    m, v = _moments(g + decay * w, s, t)
    return w - lr * m / (v.sqrt() + EPS)


def _sgd(w, g, s, t, lr, decay, inner):
    g = g + decay * w
    s["b"] = g if t == 1 else MOMENTUM * s["b"] + g
    return w - lr * (g + MOMENTUM * s["b"])


def _rmsprop(w, g, s, t, lr, decay, inner):
    g = g + decay * w
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g * g
    s["b"] = MOMENTUM * s.get("b", 0) + g / (s["v"].sqrt() + EPS)
    return w - lr * s["b"]


def _nadam(w, g, s, t, lr, decay, inner):
    """Dozat 2016, Alg. 2, with the paper's warming momentum."""
    now, following = (BETAS[0] * (1 - 0.5 * 0.96 ** (0.004 * n)) for n in (t, t + 1))
    s["product"] = s.get("product", 1.0) * now
    _, v = _moments(g, s, t)
    m = following * s["m"] / (1 - s["product"] * following) + (1 - now) * g / (1 - s["product"])
    return w * (1 - lr * decay) - lr * m / (v.sqrt() + EPS)


def _radam(w, g, s, t, lr, decay, inner):
    """Liu et al. 2020, Alg. 2."""
    m, _ = _moments(g, s, t)
    w = w * (1 - lr * decay)
    longest = 2 / (1 - BETAS[1]) - 1
    length = longest - 2 * t * BETAS[1] ** t / (1 - BETAS[1] ** t)
    if length <= 5:
        return w - lr * m
    certainty = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
    return w - lr * m * certainty * (1 - BETAS[1] ** t) ** 0.5 / (s["v"].sqrt() + EPS)


def _adafactor(w, g, s, t, lr, decay, inner):
    """Shazeer & Stern 2018, Alg. 4, with lr in place of 0.01 and means in place of sums."""
    keep = 1 - t**-0.8
    tiny = torch.finfo(w.dtype).eps
    if w.ndim > 1:
        s["r"] = keep * s.get("r", 0) + (1 - keep) * (g * g).mean(-1, keepdim=True)
        s["c"] = keep * s.get("c", 0) + (1 - keep) * (g * g).mean(-2, keepdim=True)
        v = s["r"] * s["c"] / s["r"].mean(-2, keepdim=True).clamp(min=tiny)
    else:
        s["v"] = v = keep * s.get("v", 0) + (1 - keep) * g * g
    update = g / v.sqrt().clamp(min=tiny)
    update = update / update.square().mean().sqrt().clamp(min=1.0)
    size = w.square().mean().sqrt().clamp(min=1e-3)
    return w * (1 - lr * decay) - min(lr, t**-0.5) * size * update


def _muon(w, g, s, t, lr, decay, inner):
    if not inner:
        return _adamw(w, g, s, t, lr, decay, inner)
    s["b"] = MOMENTUM * s.get("b", 0) + (1 - MOMENTUM) * g
    update = ((1 - MOMENTUM) * g + MOMENTUM * s["b"]).reshape(len(w), -1)
    u, values, vt = torch.linalg.svd(update, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):  # an odd polynomial of a matrix is that polynomial of its singular values
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    update = u @ values.diag() @ vt
    return w * (1 - lr * decay) - lr * 0.2 * max(update.shape) ** 0.5 * update.reshape(w.shape)


def _lion(w, g, s, t, lr, decay, inner):
    """Chen et al. 2023, Alg. 2."""
    m = s.get("m", torch.zeros_like(w))
    s["m"] = BETAS[1] * m + (1 - BETAS[1]) * g
    return w - lr * ((BETAS[0] * m + (1 - BETAS[0]) * g).sign() + decay * w)


def _lamb(w, g, s, t, lr, decay, inner):
    m, v = _moments(g, s, t)
    update = m / (v.sqrt() + EPS) + decay * w
    return w - lr * (w.norm() / update.norm() if w.ndim > 1 else 1) * update


def _soap(w, g, s, t, lr, decay, inner):
    """In the eigenbasis of each axis, which is found once and then turned by a power iteration."""
    axes = range(w.ndim) if w.ndim > 1 else []

    def turn(x, transposed=False):
        for axis in axes:
            q = s["q"][axis]
            x = torch.tensordot(x, q.T if transposed else q, dims=([0], [0]))  # the axes go round once
        return x

    if t > 1:
        s["m"] = BETAS[0] * s.get("m", 0) + (1 - BETAS[0]) * g
        s["v"] = BETAS[1] * s.get("v", 0) + (1 - BETAS[1]) * turn(g) ** 2
        m, v = s["m"] / (1 - BETAS[0] ** (t - 1)), s["v"] / (1 - BETAS[1] ** (t - 1))
        w = w * (1 - lr * decay) - lr * turn(turn(m) / (v.sqrt() + EPS), transposed=True)
    for axis in axes:
        others = [a for a in axes if a != axis]
        outer = torch.tensordot(g, g, dims=(others, others))
        s.setdefault("l", {})[axis] = BETAS[1] * s.get("l", {}).get(axis, 0) + (1 - BETAS[1]) * outer
    if t == 1:
        s["q"] = {axis: torch.linalg.eigh(s["l"][axis]).eigenvectors.flip(1) for axis in axes}
    elif (t - 1) % 10 == 0:
        for axis in axes:
            q, outer = s["q"][axis], s["l"][axis]
            order = torch.stack([c @ outer @ c for c in q.T]).argsort(descending=True)
            s["v"] = s["v"].index_select(axis, order)
            s["q"][axis] = torch.linalg.qr(outer @ q[:, order]).Q
    return w


def _schedule_free(y, g, s, t, lr, decay, inner):
    """Defazio et al. 2024, Alg. 1, with x in the open."""
    z, x = s.setdefault("z", y), s.setdefault("x", y)
    s["v"] = BETAS[1] * s.get("v", 0) + (1 - BETAS[1]) * g * g
    s["r"] = max(s.get("r", 0), lr)
    s["sum"] = s.get("sum", 0) + s["r"] ** 2
    c = s["r"] ** 2 / s["sum"]
    s["z"] = z - lr * (g / ((s["v"] / (1 - BETAS[1] ** t)).sqrt() + EPS) + decay * y)
    s["x"] = (1 - c) * x + c * s["z"]
    return (1 - BETAS[0]) * s["z"] + BETAS[0] * s["x"]


RULES = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "nadam": _nadam,
    "radam": _radam,
    "adafactor": _adafactor,
    "muon": _muon,
    "lion": _lion,
    "lamb": _lamb,
    "soap": _soap,
    "schedule_free": _schedule_free,
}


def _by_hand(name, model, images):
    """The weights after each step."""
    weights = {key: tensor.detach().clone() for key, tensor in model.named_parameters()}
    states = {key: {} for key in weights}
    for t in range(1, STEPS + 1):
        leaves = {key: w.requires_grad_() for key, w in weights.items()}
        loss = _loss(functional_call(model, leaves, images[t % 8]))
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        with torch.no_grad():
            weights = {
                key: RULES[name](
                    w, gradients[key], states[key], t, RATES[name] * _factor(t), DECAY * (w.ndim > 1), key in INNER
                ).detach()
                for key, w in weights.items()
            }
    return weights, states


INNER = {"2.weight", "6.weight"}


def _by_us(name, model, images):
    optimizer = build_optimizer(
        model, name, lr=RATES[name], weight_decay=DECAY, momentum=MOMENTUM, betas=BETAS, eps=EPS
    )
    for t in range(1, STEPS + 1):
        set_rate(optimizer, _factor(t))
        _loss(model(images[t % 8])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request):
    """As the default too, because torch's NAdam keeps one of its numbers in that."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_every_optimizer_has_its_equation_here():
    assert list(RULES) == list(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_agrees_with_its_equation_over_fifty_steps(name, dtype):
    if name == "lion":
        pytest.importorskip("pytorch_optimizer")
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    model, images = _network(dtype), torch.randn(8, 16, 2, 5, 5, dtype=dtype)
    before = {key: w.detach().clone() for key, w in model.named_parameters()}
    expected, states = _by_hand(name, _network(dtype), images)
    optimizer = _by_us(name, model, images)
    for key, w in model.named_parameters():
        torch.testing.assert_close(w.detach(), expected[key], rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
        assert (w - before[key]).abs().max() > 10 * tolerance
    if name == "schedule_free":
        for w, key in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(optimizer.averaged()[w], states[key]["x"], rtol=0, atol=tolerance)
