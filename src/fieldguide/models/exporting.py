"""A trained network for other programs, as ONNX or torch.export: written only when it computes what the original does.

The file takes any batch size and holds what a reader must know as JSON under the key ``fieldguide``; it holds no pickle
and no names of files on this machine.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from fieldguide.errors import FieldguideError, unknown
from fieldguide.shapes import Float, Tensor

BATCHES = (1, 5)
"""Batch sizes at which the written file is compared; it is traced with two images, so both are new to it."""
ANY_BATCH = ({0: Dim("batch")},)

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of file: how it is called, what it needs, how it is written with its facts and read back."""

    suffix: str
    needs: tuple[str, ...]
    write: Callable[[ExportedProgram, Tensor, Path, str], None]
    read: Callable[[Path], Network]


def export_model(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    file: Path,
    format: str = "onnx",
    *,
    facts: Mapping[str, Any],
    tolerance: float = 1e-4,
) -> dict[int, float]:
    """Export any image network that is in evaluation mode, and say how far the file's outputs are from the network's.

    The comparison is made on ``images``, at least ``sum(BATCHES)`` of them, before ``file`` appears; the result maps
    each batch size to the largest absolute difference. ``facts`` travel with the file, which replaces an older one at
    once. Raises :class:`FieldguideError` for a difference above ``tolerance`` or a missing package, and leaves nothing.
    """
    kind = FORMATS.get(format)
    if kind is None:
        raise unknown("format", format, FORMATS)
    if missing := [package for package in kind.needs if find_spec(package) is None]:
        raise FieldguideError(f'the format {format} needs {", ".join(missing)}: pip install "fieldguide[export]"')
    if model.training:
        raise FieldguideError("a network is exported as it predicts; call model.eval() first")
    with torch.no_grad():
        program = torch.export.export(model, (images[:2],), dynamic_shapes=ANY_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    place = next(folder for folder in file.parents if folder.is_dir())
    with TemporaryDirectory(prefix=f".{file.name}.", dir=place) as folder:
        written = Path(folder, file.name)
        kind.write(program, images[:2], written, json.dumps(facts, ensure_ascii=False))
        found = differences(model, kind.read(written), images)
        # Written so that NaN is refused too.
        if wrong := [f"{value:.3g} with {batch} images" for batch, value in found.items() if not value <= tolerance]:
            raise FieldguideError(
                f"the exported network's outputs differ from the original's by {' and '.join(wrong)}, more than the "
                f"tolerance of {tolerance:g}; nothing was written"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        for part in sorted(written.parent.iterdir(), reverse=True):  # weights of a large model lie beside its graph
            part.replace(file.parent / part.name)
    return found


@torch.no_grad()
def differences(model: nn.Module, other: Network, images: Float[Tensor, "n c h w"]) -> dict[int, float]:
    """The largest absolute difference between two networks' outputs, for each batch size of ``BATCHES``."""
    if len(images) < sum(BATCHES):
        raise FieldguideError(f"an export is checked on {sum(BATCHES)} images, got {len(images)}")
    batches = images[: sum(BATCHES)].split(BATCHES)
    return {len(batch): (other(batch) - model(batch)).abs().max().item() for batch in batches}


@torch.no_grad()  # else attention with a learned bias is taken apart in two ways that do not agree
def _write_onnx(program: ExportedProgram, example: Tensor, file: Path, facts: str) -> None:
    exported = torch.onnx.export(
        program,  # pyright: ignore[reportArgumentType]  (its signature knows modules only, its code programs too)
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=ANY_BATCH,  # for the name of the axis
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props["fieldguide"] = facts
    exported.save(file)


def _read_onnx(file: Path) -> Network:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])

    def network(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)

    return network


def _write_program(program: ExportedProgram, example: Tensor, file: Path, facts: str) -> None:
    program.example_inputs = None  # they alone would be stored as pickle
    torch.export.save(program, file, extra_files={"fieldguide.json": facts})


def _read_program(file: Path) -> Network:
    return torch.export.load(file).module()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "torch-export": Format(".pt2", (), _write_program, _read_program),
}
