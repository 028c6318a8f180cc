"""``fieldguide info NAME``: one architecture in numbers and in a sentence."""

from typing import Any

from fieldguide import catalog
from fieldguide.cli.examples import sample_of
from fieldguide.cli.options import Json, Positive
from fieldguide.cli.terminal import bytes_in_words, console, say_facts, say_json, table
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
    facts, layers = _measure(name, image_size, length, batch, depth)
    story = {"task": row.task, "paper": row.paper, "key_idea": row.key_idea, "best_for": row.best_for}
    if json:
        say_json({"name": name, "family": row.family, "year": row.year, **story, **facts, "layers": layers})
        return
    shown = table("layer", "kind", "output", "parameters", "MFLOPs", "memory", right=("parameters", "MFLOPs", "memory"))
    for layer in layers:
        output = "×".join(map(str, layer["output"]))
        flops, memory = f"{layer['flops'] / 1e6:,.2f}", bytes_in_words(layer["activation_bytes"])
        shown.add_row(layer["name"], layer["kind"], output, f"{layer['parameters']:,}", flops, memory)
    console().print(shown)
    say_facts(
        **{
            "parameters": f"{facts['parameters']:,} ({bytes_in_words(facts['parameter_bytes'])})",
            "FLOPs": f"{facts['flops'] / 1e9:,.3f} G a forward pass, two per multiply-add",
            "memory": f"{bytes_in_words(facts['activation_bytes'])} of activations kept for the backward pass",
            "input": "×".join(map(str, facts["input"])),
            **{key.replace("_", " "): value for key, value in story.items()},
        }
    )


def _measure(
    name: str, side: int | None, length: int, batch: int, depth: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from fieldguide.profile.layers import layer_table

    model, example, _ = sample_of(name, batch=batch, image_size=side, length=length, device="meta")
    shape = example[0].shape
    measured = layer_table(model, example)
    total = measured.total
    facts = {"input": list(shape), "parameters": total.parameters, "parameter_bytes": measured.parameter_bytes,
             "flops": total.flops, "activation_bytes": total.activation_bytes}  # fmt: skip
    layers = [{"name": x.name, "kind": x.kind, "output": list(x.output), "parameters": x.parameters, "flops": x.flops,
               "activation_bytes": x.activation_bytes} for x in measured.rows(depth)]  # fmt: skip
    return facts, layers
