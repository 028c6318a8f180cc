"""What a network's ``config.json`` may hold: closed schemas, and numbers that belong together."""

from collections.abc import Mapping
from typing import Any

from fieldguide.errors import FieldguideError
from fieldguide.models.build import fits

SCHEMA = {"fieldguide": str, "name": str, "family": str, "config": dict, "data": dict | None,
          "preprocessing": dict | None, "swaps": list[dict], "sha256": str}  # fmt: skip
SWAP_SCHEMA = {"where": str, "core": str, "mask": str, "dropout": float}
PREPROCESSING_SCHEMA = {"mean": list[float], "std": list[float], "size": int, "resize": int, "interpolation": str}
DATA_SCHEMAS = {
    "images": {"classes": list[str], "channels": int, "image_size": list[int], "mean": list[float], "std": list[float],
               "resize": str},
    "text": {"classes": list[str] | None, "length": int | None},
    "table": {"columns": list[dict], "target": str, "classes": list[str] | None},
}  # fmt: skip
"""By the kind of data: how inputs are prepared and answers are read."""
COLUMN_SCHEMA = {"name": str, "levels": list[str] | None, "fill": float | str | None}
LARGEST_SIDE = 10_000
"""Of an image, in pixels."""


def require(entries: Any, schema: Mapping[str, Any], where: str, error: type[FieldguideError]) -> None:
    """A closed schema: exactly these keys, each with a value of its kind."""
    if not isinstance(entries, dict):
        raise error(f"{where} must be an object with {', '.join(schema)}, got {entries!r}")
    problems = listing("missing", schema.keys() - entries.keys()) + listing("unknown", entries.keys() - schema.keys())
    problems += listing("of the wrong kind", {k for k in entries.keys() & schema if not fits(entries[k], schema[k])})
    if problems:
        raise error(f"{where}: {'; '.join(problems)}; expected {', '.join(sorted(schema))}")


def require_data(data: Any, where: str, error: type[FieldguideError]) -> None:
    """How inputs are prepared and answers are read, by the schema of its kind."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in DATA_SCHEMAS:
        raise error(f"{where}: kind is {kind!r}; known: {', '.join(DATA_SCHEMAS)}")
    require(data, {"kind": str, **DATA_SCHEMAS[kind]}, where, error)
    for column in data.get("columns", ()):
        require(column, COLUMN_SCHEMA, f"columns of {where}", error)


def disagreement(config: Any, data: dict[str, Any] | None) -> str | None:
    """Where a network's numbers and its data's cannot belong together."""
    if data is None:
        return None
    outputs = getattr(config, "num_classes", getattr(config, "out_features", None))
    if data["classes"] is not None and outputs not in (None, len(data["classes"])):
        return f"{len(data['classes'])} classes, and the network tells {outputs} apart"
    if data["kind"] == "images":
        sides, statistics = data["image_size"], (len(data["mean"]), len(data["std"]))
        if len(sides) != 2 or not all(0 < side <= LARGEST_SIDE for side in sides):
            return f"image_size is {sides}"
        if data["channels"] != config.in_channels or statistics != (config.in_channels,) * 2:
            return f"{data['channels']} channels, {statistics} statistics, and the network takes {config.in_channels}"
    if data["kind"] == "table":
        inputs = sum(1 if column["levels"] is None else len(column["levels"]) for column in data["columns"])
        if inputs != config.in_features:
            return f"columns for {inputs} inputs, and the network takes {config.in_features}"
    return None


def listing(label: str, names: set[str]) -> list[str]:
    """One clause that counts the names and shows the first; none where there are none."""
    shown = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
    return [f"{len(names)} {label} ({shown})"] if names else []
