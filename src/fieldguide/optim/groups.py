"""What is learned how fast: only matrices and kernels decay, and layers may learn the slower the deeper they lie."""

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from torch import nn

from fieldguide.blocks.selection import selected_parameters
from fieldguide.errors import FieldguideError

# Learned vectors and tables that a module holds directly: class tokens, position tables, relative-bias tables, scales.
_TABLE = re.compile(r"token|position|pos_embed|table|scale|bias")
# The first part of a list that a parameter lies in: ``encoder.layers.3`` of ``encoder.layers.3.feedforward.weight``.
_ELEMENT = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters in groups ``decay`` and ``no_decay`` for each rate, as ``(name, parameter)`` pairs.

    Not decayed: norms, biases and every other vector, embeddings, position tables and learned tokens. (Decaying them
    pulls scales towards zero without limiting what the network can express: He et al. 2019, "Bag of Tricks", §3.1.)
    Frozen parameters are left out; shared ones appear once.

    ``lr_scale`` is each group's share of the learning rate. The last layer's is 1, and each layer further from the
    output has ``layer_decay`` times that of the next (Howard & Ruder 2018, §3.2; in this form Clark et al. 2020,
    ELECTRA, appendix B); :func:`layers` says what a layer is. ``rates`` maps patterns (``blocks.selection``) to shares
    that hold instead, ``{"stem|stages.0": 0.1}``; the first that selects a parameter counts. The groups of the largest
    share come first.

    Raises FieldguideError for a ``layer_decay`` outside (0, 1], a share of 0 or less, a pattern that selects nothing.
    """
    scales = _scales(model, layer_decay, rates or {})
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    seen = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                exempt = _is_exempt(module, leaf.rpartition(".")[2], parameter)
                groups.setdefault((scales[parameter], exempt), []).append((leaf, parameter))
    return [
        {
            "group": "no_decay" if exempt else "decay",
            "params": params,
            "weight_decay": 0.0 if exempt else weight_decay,
            "lr_scale": scale,
        }
        for (scale, exempt), params in sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]


def layers(model: nn.Module) -> list[list[str]]:
    """The names of a network's parameters, layer by layer from the input to the output.

    Each element of a list (``nn.Sequential``, ``nn.ModuleList``) is one layer: ``stages.0``, ``encoder.layers.3``. What
    stands together before, between or after lists is one too: the embeddings of a Transformer, its last norm and head.
    Without any list, each part of the model is one. Parts that hold only vectors, such as norms, belong to the layer
    before them, and the model's own parameters, such as a class token, to the first.
    """
    own = [name for name, _ in model.named_parameters(recurse=False)]
    inner = [(name, parameter) for name, parameter in model.named_parameters() if "." in name]
    in_lists = any(_ELEMENT.match(name) for name, _ in inner)

    def part(named: tuple[str, nn.Parameter]) -> str:
        element = _ELEMENT.match(named[0])
        return element[0] if element else "" if in_lists else named[0].partition(".")[0]

    found: list[list[str]] = []
    for _, group in groupby(inner, part):
        names, parameters = zip(*group, strict=True)
        if found and all(parameter.ndim < 2 for parameter in parameters):
            found[-1] += names
        else:
            found.append([*names])
    return [own + found[0], *found[1:]] if found else [own]


def _scales(model: nn.Module, layer_decay: float, rates: Mapping[str, float]) -> dict[nn.Parameter, float]:
    if not 0 < layer_decay <= 1:
        raise FieldguideError(f"optimizer: layer_decay={layer_decay} must be above 0 and at most 1")
    named = dict(model.named_parameters())
    scales = {
        named[name]: layer_decay**distance for distance, layer in enumerate(reversed(layers(model))) for name in layer
    }
    explicit: dict[nn.Parameter, float] = {}
    for pattern, scale in rates.items():
        if scale <= 0:
            raise FieldguideError(f"optimizer: the rate of {pattern!r} is {scale}; freeze what is to stay as it is")
        explicit = dict.fromkeys(selected_parameters(model, pattern).values(), scale) | explicit
    return scales | explicit


def _is_exempt(module: nn.Module, leaf: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag) or bool(_TABLE.search(leaf))
