"""``fieldguide info NAME``: one architecture in numbers and in a sentence."""

from typing import Any

from fieldguide import catalog
from fieldguide.cli.options import Json, Positive
from fieldguide.cli.terminal import console, say_facts, say_json, table
from fieldguide.errors import unknown


def info(
    name: str,
    /,
    *,
    image_size: Positive | None = None,
    length: Positive = 128,
    batch: Positive = 1,
    depth: Positive = 2,
    json: Json = False,
) -> None:
    """One architecture: parameters, FLOPs, memory, layers, paper. Nothing is computed, so any size takes seconds.

    Parameters
    ----------
    name
        A name from `fieldguide models`, such as resnet50.
    image_size
        Side of the image in pixels; without it the architecture's own.
    length
        Tokens in a text, for networks that take text.
    batch
        Images or texts in one forward pass.
    depth
        How deep the layer table looks into the network.
    """
    row = catalog.find(name)
    if row is None:
        raise unknown("model", name, catalog.names(), "`fieldguide models` lists all")
    native = row.mini_image if name.endswith("_mini") else row.image
    facts, layers = _measure(name, image_size or (native[1] if native else None), length, batch, depth)
    story = {"task": row.task, "paper": row.paper, "key_idea": row.key_idea, "best_for": row.best_for}
    if json:
        say_json({"name": name, "family": row.family, "year": row.year, **story, **facts, "layers": layers})
        return
    shown = table("layer", "kind", "output", "parameters", "MFLOPs", "memory", right=("parameters", "MFLOPs", "memory"))
    for layer in layers:
        output = "×".join(map(str, layer["output"]))
        flops, memory = f"{layer['flops'] / 1e6:,.2f}", _bytes(layer["activation_bytes"])
        shown.add_row(layer["name"], layer["kind"], output, f"{layer['parameters']:,}", flops, memory)
    console().print(shown)
    say_facts(
        **{
            "parameters": f"{facts['parameters']:,} ({_bytes(facts['parameter_bytes'])})",
            "FLOPs": f"{facts['flops'] / 1e9:,.3f} G a forward pass, two per multiply-add",
            "memory": f"{_bytes(facts['activation_bytes'])} of activations kept for the backward pass",
            "input": "×".join(map(str, facts["input"])),
            **{key.replace("_", " "): value for key, value in story.items()},
        }
    )


def _measure(
    name: str, side: int | None, length: int, batch: int, depth: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    import torch

    from fieldguide.models import create_model
    from fieldguide.profile.layers import layer_table

    overrides = {"image_size": side} if "image_size" in _fields(name) else {}
    with torch.device("meta"):
        model = create_model(name, **overrides)  # pyright: ignore
        if _task(name) == "regress":
            features: int = model.config.in_features  # pyright: ignore
            shape = (batch, features)
            example = (torch.empty(shape),)
        elif side is None:
            shape, texts = (batch, length), 2 if _task(name) == "translate" else 1
            example = (torch.zeros(shape, dtype=torch.long),) * texts
        else:
            channels: int = model.config.in_channels  # pyright: ignore
            shape = (batch, channels, side, side)
            example = (torch.empty(shape),)
    measured = layer_table(model, example)
    total = measured.total
    facts = {"input": list(shape), "parameters": total.parameters, "parameter_bytes": measured.parameter_bytes,
             "flops": total.flops, "activation_bytes": total.activation_bytes}  # fmt: skip
    layers = [{"name": x.name, "kind": x.kind, "output": list(x.output), "parameters": x.parameters, "flops": x.flops,
               "activation_bytes": x.activation_bytes} for x in measured.rows(depth)]  # fmt: skip
    return facts, layers


def _task(name: str) -> str | None:
    row = catalog.find(name)
    return row.task if row else None


def _fields(name: str) -> tuple[str, ...]:
    from fieldguide.models.build import sizes

    row = catalog.find(name)
    return tuple(sizes(row)[name].__dataclass_fields__) if row else ()


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024  # pyright: ignore[reportAssignmentType]
    return f"{count:,.2f} GiB"
