"""What each kind of layer costs by its own formula, from shapes alone: the second opinion on a counter.

Two operations for each multiply-add. Norms, activations, pooling, additions and look-ups have no formula because they
have no products: they cost memory traffic. The sums of this table equal PyTorch's counter for every network of the
catalog; where they differ for another network, one of its layers multiplies matrices outside these modules.

Axes: b batch, h query heads, g key/value heads, q/k query/key length, c head width, e value width, f features, s slots.
"""

from collections.abc import Callable
from inspect import signature
from math import prod
from typing import Any

from torch import Tensor, nn

from fieldguide.blocks import cores
from fieldguide.blocks.attend import choose
from fieldguide.blocks.heads import MaskedTokens
from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.linear import CHUNK, STRETCH
from fieldguide.blocks.kernels.sdpa import sdpa

Formula = Callable[[Any, dict[str, Any], Any], int]


def cost(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> int:
    """FLOPs of one call of a module beside those of the modules inside it, from the call's arguments and result."""
    for kind, formula in FORMULAS.items():
        if isinstance(module, kind):
            given = signature(module.forward).bind(*inputs, **named)
            given.apply_defaults()
            return formula(module, given.arguments, output)
    return 0


def _linear(layer: nn.Linear, given: dict[str, Any], output: Tensor) -> int:
    return 2 * output.numel() * layer.in_features


def _convolution(layer: Any, given: dict[str, Any], output: Tensor) -> int:
    return 2 * output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)


def _transposed(layer: Any, given: dict[str, Any], output: Tensor) -> int:
    return 2 * given["input"].numel() * layer.out_channels // layer.groups * prod(layer.kernel_size)


def _softmax(core: cores.Softmax, given: dict[str, Any], output: Tensor) -> int:
    """Scores and weighted sums of the pairs that the kernel for this mask computes: n² of them, or fewer."""
    q, k, v = given["q"], given["k"], given["v"]
    case = Case.of(q, k, given["mask"], given["bias"], given["dropout"])
    kernel = choose(case)
    # As counters and most papers do, a fused causal kernel is charged for the whole square.
    pairs = case.pairs if kernel is sdpa else kernel.pairs(case)
    return 2 * q.shape[0] * q.shape[1] * pairs * (q.shape[3] + v.shape[3])


def _features(core: cores.FeatureCore, given: dict[str, Any], output: Tensor) -> int:
    """Sums over keys in place of pairs; causal, also the pairs within each chunk."""
    q, k, v = given["q"], given["k"], given["v"]
    (b, h, n, c), (g, m), e = q.shape, k.shape[1:3], v.shape[3] + 1
    f, drawn = c, 0
    if isinstance(core, cores.Performer):
        f = core.projection.shape[0]
        drawn = 2 * b * f * c * (h * n + 2 * g * m)  # those of the keys once more, for the largest of them
    causal, _ = core._read(q, k, given["mask"], None)
    if not causal:
        return drawn + 2 * b * f * e * (g * m + h * n)
    past, new = max(m - n, 0), min(n, m)
    tokens = pairs = 0
    for start in range(0, new, STRETCH):
        length = min(STRETCH, new - start)
        size = min(CHUNK, length)
        tokens += length + -length % size
        pairs += (length + -length % size) * size
    return drawn + 2 * b * (f * e * (g * past + 2 * h * tokens) + h * pairs * (f + e))


def _projection(layer: cores.Projection, given: dict[str, Any], output: Tensor) -> int:
    return 2 * output.numel() * given["x"].shape[2]


def _linformer(core: cores.Linformer, given: dict[str, Any], output: Tensor) -> int:
    slots = core.keys.weight.shape[1]
    q, v = given["q"], given["v"]
    return 2 * q.shape[0] * q.shape[1] * q.shape[2] * slots * (q.shape[3] + v.shape[3])


def _tied_head(head: MaskedTokens, given: dict[str, Any], output: Tensor) -> int:
    return 2 * output.numel() * given["table"].shape[1]


FORMULAS: dict[type | tuple[type, ...], Formula] = {
    nn.Linear: _linear,
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): _convolution,
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): _transposed,
    cores.Softmax: _softmax,
    cores.FeatureCore: _features,
    cores.Projection: _projection,
    cores.Linformer: _linformer,
    MaskedTokens: _tied_head,
}


def tied_output(module: nn.Module, output: Any, inside: list[tuple[int, ...]]) -> int:
    """The product with an embedding's table that makes the output, of a module whose parts made no such result.

    Press & Wolf 2017, "Using the Output Embedding to Improve Language Models".
    """
    if not isinstance(output, Tensor) or tuple(output.shape) in inside:
        return 0
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    table = next((x for x in tables if x.num_embeddings == output.shape[-1]), None)
    return 2 * output.numel() * table.embedding_dim if table else 0
