"""A new task for a trained network: the same features, another set of classes."""

from dataclasses import fields, is_dataclass, replace
from itertools import chain

from torch import nn

from fieldguide.blocks.heads import Hidden, MaskedTokens, Pretraining, TextClassifier
from fieldguide.blocks.lora import has_adapters
from fieldguide.errors import FieldguideError


def reset_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Puts a fresh, trainable layer of ``num_classes`` outputs in place of every module named ``head``; the model.

    Auxiliary heads, whose names end in ``.head``, are replaced too; of the classifier of a text the output layer is,
    for what pools the text serves any classes. A new head is of the old one's class, with as many
    inputs, with a bias if that had one, on its device, of its type and in its mode, and starts as its class starts
    (``nn.Linear``: uniform within ±1/√in_features). ``model.config.num_classes`` follows, so that ``save_model`` and
    ``load_model`` know.

    Raises FieldguideError for fewer than one class, a model without a head, one that is no single layer or has an
    adapter, or a config without ``num_classes``; the model is then as it was.
    """
    if num_classes < 1:
        raise FieldguideError(f"reset_head: num_classes={num_classes} must be at least 1")
    kind, config = type(model).__name__, getattr(model, "config", None)
    heads = dict(_output(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "head")
    if not heads:
        parts = ", ".join(name for name, _ in model.named_children())
        raise FieldguideError(f"reset_head: {kind} has no module named head; it has {parts or 'no parts'}")
    if is_dataclass(config) and "num_classes" not in {field.name for field in fields(config)}:
        raise FieldguideError(f"reset_head: the config of {kind} has no num_classes, so its head is not for classes")
    fresh = {name: _fresh(name, head, num_classes) for name, head in heads.items()}
    for name, head in fresh.items():
        model.set_submodule(name, head)
    if is_dataclass(config):
        model.config = replace(config, num_classes=num_classes)  # pyright: ignore[reportArgumentType]
    return model


def _output(name: str, head: nn.Module) -> tuple[str, nn.Module]:
    """The layer of a head that gives the classes."""
    if isinstance(head, Hidden | MaskedTokens | Pretraining):
        kind = type(head).__name__
        raise FieldguideError(f'reset_head: {name} is a {kind}, which gives no classes; create it with head="classify"')
    return (f"{name}.output", head.output) if isinstance(head, TextClassifier) else (name, head)


def _fresh(name: str, head: nn.Module, num_classes: int) -> nn.Module:
    if has_adapters(head):
        raise FieldguideError(f"reset_head: {name} has a LoRA adapter; reset it first, then call lora without it")
    if not hasattr(head, "in_features") or not hasattr(head, "out_features"):
        kind = type(head).__name__
        raise FieldguideError(
            f"reset_head: {name} is a {kind} without in_features and out_features; replace it yourself"
        )
    bias = {"bias": head.bias is not None} if isinstance(head, nn.Linear) else {}
    like = next(chain(head.parameters(), head.buffers()))
    fresh = type(head)(head.in_features, num_classes, **bias)  # pyright: ignore[reportArgumentType]
    return fresh.to(like.device, like.dtype).train(head.training)
