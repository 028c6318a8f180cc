"""``fieldguide export RUN``: the trained network as a file for other programs, compared with the original first."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import say_facts, say_json
from fieldguide.errors import FieldguideError

if TYPE_CHECKING:
    from fieldguide.cli.tasks.images import TrainedImages
    from fieldguide.shapes import Tensor
    from fieldguide.train.run import RunFolder


def export(
    run: Path,
    /,
    *,
    format: Literal["onnx", "torch-export"] = "onnx",
    out: Path | None = None,
    tolerance: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 1e-4,
    json: Json = False,
) -> None:
    """Write a trained network as ONNX or torch.export, if it computes what the original does.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    format
        "onnx" for ONNX runtimes, "torch-export" for PyTorch without fieldguide.
    out
        A new file; without it export/model.onnx or export/model.pt2 in the run's folder, where an earlier export is
        replaced.
    tolerance
        The largest difference of a logit with which the file is still written.
    """
    from fieldguide.cli.tasks import trained_images
    from fieldguide.models import read_config
    from fieldguide.models.exporting import FORMATS, export_model
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run)
    trained = trained_images(folder)
    suffix = FORMATS[format].suffix
    file = _new(out, suffix) if out else folder.path / "export" / f"model{suffix}"
    stored = read_config(folder.model)
    facts = {"fieldguide": stored.version, "model": stored.name, **(stored.data or {})}
    images, real = _examples(folder, trained)
    found = export_model(trained.model, trained.prepare(images), file, format, facts=facts, tolerance=tolerance)
    if json:
        differences = {str(batch): value for batch, value in found.items()}
        say_json({"file": str(file), "format": format, "differences": differences, "tolerance": tolerance, **facts})
        return
    _, channels, height, width = images.shape
    say_facts(
        file=f"{file} ({file.stat().st_size / 2**20:,.2f} MiB)",
        input=f"images (batch, {channels}, {height}, {width}), normalised as its metadata say; output: logits",
        difference=", ".join(f"{value:.2g} with a batch of {batch}" for batch, value in found.items())
        + f"; tolerance {tolerance:g}",
        compared=f"on {real} test images and {len(images) - real} random ones",
    )


def _new(file: Path, suffix: str) -> Path:
    if file.suffix != suffix:
        raise FieldguideError(f"--out {file} must end in {suffix} for this format")
    if not file.parent.is_dir():
        raise FieldguideError(f"there is no folder {file.parent} for the file")
    if file.exists():
        raise FieldguideError(f"{file} exists already; choose another name")
    return file


def _examples(run: "RunFolder", trained: "TrainedImages") -> "tuple[Tensor, int]":
    """Test images that the run has kept, filled up with random ones, and how many are real."""
    import torch

    from fieldguide.models.exporting import BATCHES
    from fieldguide.report import Predictions

    kept = Predictions.load(run.path)
    real = kept.worst_images[: sum(BATCHES)] if kept else torch.empty(0, trained.channels, *trained.size)
    shape = (sum(BATCHES) - len(real), trained.channels, *trained.size)
    random = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.cat([real.to(torch.uint8), random]), len(real)
