"""Which parameters are decayed: matrices and kernels are, everything that sets a scale, a shift or a place is not."""

import re
from typing import Any

from torch import nn

# Learned vectors and tables that a module holds directly: class tokens, position tables, relative-bias tables, scales.
_TABLE = re.compile(r"token|position|pos_embed|table|scale|bias")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups, ``decay`` and ``no_decay``, as ``(name, parameter)`` pairs.

    Not decayed: norms, biases and every other vector, embeddings, position tables and learned tokens. (Decaying them
    pulls scales towards zero without limiting what the network can express: He et al. 2019, "Bag of Tricks", §3.1.)
    Frozen parameters are left out; shared ones appear once.
    """
    decay, no_decay = [], []
    seen = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                group = no_decay if _is_exempt(module, leaf.rpartition(".")[2], parameter) else decay
                group.append((leaf, parameter))
    groups = [
        {"group": "decay", "params": decay, "weight_decay": weight_decay},
        {"group": "no_decay", "params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_exempt(module: nn.Module, leaf: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag) or bool(_TABLE.search(leaf))
