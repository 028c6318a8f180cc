"""An export computes what the original does at other batch sizes than it was traced with, or is not written."""

import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from onnxruntime import InferenceSession
from torch import nn

from fieldguide import catalog
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.exporting import BATCHES, export_model

QUICK = ("resnet_mini", "vit_mini")
MINIS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in (f"{row.family}_mini" for row in catalog.ARCHITECTURES if row.image)
]
FACTS = {"classes": ["Ähre", "b"], "mean": [0.5]}


def images(count: int = sum(BATCHES), side: int = 32) -> torch.Tensor:
    return torch.randn(count, 1, side, side)


class Noisy(nn.Module):
    """Dropout that evaluation mode does not end: no two answers agree."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, training=True).flatten(1)


class Forgetful(nn.Module):
    """A number that changes between calls, which tracing writes down as it was."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.flatten(1) * self.calls


class Undefined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * float("nan")


@pytest.mark.parametrize("name", MINIS)
def test_onnx(name: str, tmp_path: Path) -> None:
    model, x = create_model(name).eval(), images()
    found = export_model(model, x, tmp_path / "model.onnx", "onnx", facts=FACTS)
    assert found.keys() == {1, 5}
    assert max(found.values()) <= 1e-6 * max(1, model(x).abs().max().item()), "rounding, no more"
    session = InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["fieldguide"]) == FACTS
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", 1, 32, 32])]
    more = images(7)
    (logits,) = session.run(["logits"], {"images": more.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(more).detach(), rtol=1e-4, atol=1e-5)
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "model.onnx").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", MINIS)
def test_torch_export(name: str, tmp_path: Path) -> None:
    model, x = create_model(name).eval(), images()
    file = tmp_path / "made" / "model.pt2"
    assert max(export_model(model, x, file, "torch-export", facts=FACTS).values()) <= 1e-5
    extra, more = {"fieldguide.json": ""}, images(7)
    loaded = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["fieldguide.json"]) == FACTS
    torch.testing.assert_close(loaded(more), model(more), rtol=1e-4, atol=1e-5)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    # A pickle of protocol 2 or more begins with 0x80 and ends with a full stop; torch wraps it in a zip of its own.
    assert not [n for n, b in parts.items() if b[:2] == b"PK" or (b[:1] == b"\x80" and b[-1:] == b".")]
    assert not [n for n, b in parts.items() if str(Path(__file__).parents[2]).encode() in b]


@pytest.mark.parametrize("network", [Noisy, Forgetful, Undefined])
def test_an_export_that_differs_is_not_written(network: type[nn.Module], tmp_path: Path) -> None:
    old = tmp_path / "model.pt2"
    old.write_bytes(b"old")
    with pytest.raises(FieldguideError, match=r"differ from the original's by .* with 1 .* tolerance of 0.0001"):
        export_model(network().eval(), images(), old, "torch-export", facts={})
    assert old.read_bytes() == b"old"
    with pytest.raises(FieldguideError, match="nothing was written"):
        export_model(network().eval(), images(), tmp_path / "new" / "model.pt2", "torch-export", facts={})
    assert list(tmp_path.iterdir()) == [old]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    model, file = create_model("lenet_mini"), tmp_path / "model.pt2"
    with pytest.raises(FieldguideError, match=r"model.eval\(\)"):
        export_model(model.train(), images(), file, "torch-export", facts={})
    with pytest.raises(FieldguideError, match="6 images, got 5"):
        export_model(model.eval(), images(5), file, "torch-export", facts={})
    with pytest.raises(FieldguideError, match="did you mean 'onnx'"):
        export_model(model, images(), file, "onx", facts={})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # to an import, that is a package that is not there
    with pytest.raises(FieldguideError, match=r'format onnx needs onnxscript: pip install "fieldguide\[export\]"'):
        export_model(create_model("lenet_mini").eval(), images(), tmp_path / "model.onnx", facts={})
    assert list(tmp_path.iterdir()) == []
