"""Parts of a network that training leaves as they are.

What is frozen belongs to the module in memory: no file holds it, ``deepcopy`` keeps it.
"""

from functools import partial

from torch import nn

from fieldguide.blocks.selection import matching, selected_parameters


def freeze(model: nn.Module, pattern: str = "*") -> tuple[str, ...]:
    """Keeps the selected parameters (``blocks.selection``) as they are; returns their names.

    A selected norm with running statistics keeps those too and goes on using them: it is put in evaluation mode and no
    longer listens to ``model.train()`` until :func:`unfreeze`. (A momentum of 0 would keep the statistics, but the norm
    would use the batch's.) Dropout stays as it is.

    Raises FieldguideError for an alternative that selects no parameter.
    """
    parameters = selected_parameters(model, pattern)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    for norm in _norms(model, pattern):
        norm.eval()
        norm.train = partial(_stay, norm)
    return tuple(parameters)


def unfreeze(model: nn.Module, pattern: str = "*") -> tuple[str, ...]:
    """Lets the selected parameters learn again, and norms follow the mode of ``model``; returns the parameters' names.

    Raises FieldguideError for an alternative that selects no parameter.
    """
    parameters = selected_parameters(model, pattern)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for norm in _norms(model, pattern):
        if vars(norm).pop("train", None):
            norm.train(model.training)
    return tuple(parameters)


def _norms(model: nn.Module, pattern: str) -> list[nn.Module]:
    named = dict(model.named_modules(remove_duplicate=False))
    norms = {name: module for name, module in named.items() if getattr(module, "track_running_stats", False)}
    return [norms[name] for name in matching(norms, pattern)]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """The ``train`` of a frozen norm; an instance's own attribute, which deepcopy binds to the copy."""
    return module
