"""From a model to the names and shapes that another library reads: the inverse of loading, bit by bit."""

import os
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from fieldguide.errors import FieldguideError, unknown
from fieldguide.weights.family import family_of
from fieldguide.weights.loading import distinct_tensors
from fieldguide.weights.report import few


def export_weights(model: nn.Module, layout: str = "torchvision", *, family: str | None = None) -> dict[str, Tensor]:
    """A model's tensors as ``layout`` names and shapes them; its library loads the dict as it is.

    ``load_weights`` of the result gives the same model. Tensors share memory with the model where the layout stores
    them alike. Raises :class:`FieldguideError` for a layout that the family does not have or that has no place for
    some tensor.
    """
    layouts = family_of(model, family).layouts
    if layout not in layouts:
        raise unknown("layout", layout, layouts)
    ours = distinct_tensors(model)
    homeless: list[tuple[str, ...]] = []
    for table in layouts[layout]:
        try:
            return table.write(ours)
        except KeyError as error:
            homeless.append(error.args)
    title = getattr(model, "name", type(model).__name__)
    raise FieldguideError(
        f"{title} cannot be written in {layout} layout: it has no name for {few(min(homeless, key=len))}"
    )


def save_weights(
    model: nn.Module, path: str | PathLike[str], layout: str = "torchvision", *, family: str | None = None
) -> None:
    """Write :func:`export_weights` to a ``.safetensors`` file, which appears whole or not at all."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise FieldguideError(f"{path} must end in .safetensors; pickles are not written")
    tensors = {name: tensor.cpu() for name, tensor in export_weights(model, layout, family=family).items()}
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, fresh, metadata={"format": "pt"})
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
