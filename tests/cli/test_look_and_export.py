"""``look`` and ``export`` on runs that were trained, in grey and in colour, with and without convolutions."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from sklearn.datasets import load_digits

from fieldguide.cli import run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short runs – grey/, colour/ and vit/ – and an image of each kind."""
    place, digits = tmp_path_factory.mktemp("place"), load_digits()
    scans = (digits.images * 255 / 16).astype(np.uint8)
    for number in range(60):
        label, file = int(digits.target[number] > 4), place / "scans"
        (file / f"class {label}").mkdir(parents=True, exist_ok=True)
        tinted = np.stack([scans[number], scans[number] // 2, 255 - scans[number]], axis=-1)
        Image.fromarray(tinted).save(file / f"class {label}" / f"{number}.png")
    Image.fromarray(scans[5]).save(place / "grey.png")
    Image.fromarray(tinted).save(place / "colour.png")
    options = ["--epochs", "1", "--threads", "1", "--out", str(place), "--name"]
    assert run(["train", "resnet_mini", *options, "grey"]) == 0
    assert run(["train", "vit_mini", *options, "vit"]) == 0
    colour = ["--data", str(place / "scans"), "--batch-size", "8"]
    assert run(["train", "resnet_mini", *options, "colour", *colour]) == 0
    return place


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run([*map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_look_leaves_pictures_in_the_run(kind: str, place: Path, capsys) -> None:
    folder, image = place / kind, place / f"{kind}.png"
    before = {p for p in place.rglob("*") if p.name != ".lock"}
    out = said(capsys, "look", "cam", folder, image)
    guesses = json.loads(said(capsys, "predict", folder, image, "--top", 2, "--json"))[0]["classes"]
    assert out.splitlines() == [
        str(folder / "figures" / f"cam-{kind}.png"),
        *(f"  {guess['probability']:7.2%}  {guess['name']}" for guess in guesses),
    ]
    assert said(capsys, "look", "maps", folder, image) == f"{folder / 'figures' / f'maps-{kind}.png'}\n"
    assert said(capsys, "look", "filters", folder) == f"{folder / 'figures' / 'filters.png'}\n"
    made = {p for p in place.rglob("*") if p.name != ".lock"} - before
    assert {p.name for p in made} == {f"cam-{kind}.png", f"maps-{kind}.png", "filters.png"}
    coloured = np.ptp(imread(folder / "figures" / "filters.png")[..., :3], axis=-1).max() > 0.1
    assert coloured == (kind == "colour")
    assert run(["look", "cam", str(folder), str(image)]) == 0, "figures are drawn again"


def test_look_at_another_class_and_stage(place: Path, tmp_path: Path, capsys) -> None:
    options = ["--class", "7", "--stage", "1", "--out", tmp_path / "seven.png"]
    out = said(capsys, "look", "cam", place / "grey", place / "grey.png", *options)
    assert out.splitlines()[0] == str(tmp_path / "seven.png")
    assert out.splitlines()[1].endswith("  7")
    said(capsys, "look", "maps", place / "grey", place / "grey.png", "--stage", 2, "--out", tmp_path / "two.png")
    said(capsys, "look", "maps", place / "grey", place / "grey.png", "--out", tmp_path / "all.png")
    two, every = (imread(tmp_path / name) for name in ("two.png", "all.png"))
    assert two.shape[0] < every.shape[0]


def test_look_at_a_vit(place: Path, capsys) -> None:
    said(capsys, "look", "maps", place / "vit", place / "grey.png")
    said(capsys, "look", "filters", place / "vit")


@pytest.mark.parametrize(("format", "file"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")])
def test_export_says_what_it_measured(format: str, file: str, place: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    folder = place / "colour"
    result = json.loads(said(capsys, "export", folder, "--format", format, "--json"))
    written = folder / "export" / file
    assert result["file"] == str(written)
    assert result["differences"].keys() == {"1", "5"}
    assert max(result["differences"].values()) <= 1e-5
    data = json.loads((folder / "model" / "config.json").read_text())["data"]
    assert {key: result[key] for key in data} == data
    assert result["model"] == "resnet_mini"

    # What the documentation shows, run where the file lies, gives the class that `predict` gives.
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M) if file in block)
    (tmp_path / file).write_bytes(written.read_bytes())
    (tmp_path / "image.png").write_bytes((place / "colour.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(example, "docs/export.md", "exec"), {})
    shown = capsys.readouterr().out.strip()
    guess = json.loads(said(capsys, "predict", folder, place / "colour.png", "--json"))[0]["classes"][0]["name"]
    assert shown == (guess if format == "onnx" else str(torch.Size([3, 2])))


def test_export_in_words_replaces_its_own_and_refuses_the_rest(place: Path, tmp_path: Path, capsys) -> None:
    folder, file = place / "grey", place / "grey" / "export" / "model.onnx"
    file.parent.mkdir()
    file.write_bytes(b"old")
    out = said(capsys, "export", folder)
    assert f"{file} (" in out
    assert re.search(r"difference +\S+ with a batch of 1, \S+ with a batch of 5; tolerance 0.0001", out)
    assert re.search(r"compared +on 6 test images and 0 random ones", out)
    first = file.read_bytes()
    assert len(first) > 100_000
    taken = tmp_path / "model.onnx"
    taken.write_bytes(b"mine")
    assert run(["export", str(folder), "--out", str(taken)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"

    before = sorted(place.rglob("*"))  # rounding alone is above a tolerance of 0
    assert run(["export", str(folder), "--tolerance", "0"]) == 2
    assert re.fullmatch(r"error: .* differ .* by \S+ with \d images.* tolerance of 0; .*\n", capsys.readouterr().err)
    assert (sorted(place.rglob("*")), file.read_bytes()) == (before, first)


BAD = [
    ("look cam PLACE/vit PLACE/grey.png", ["vit_mini", "look maps"]),
    ("look cam PLACE/grey PLACE/none.png", ["none.png", "no such file"]),
    ("look cam PLACE/grey PLACE/grey.png --class 12", ["unknown class '12'"]),
    ("look cam PLACE/colour PLACE/grey.png --class class0", ["class0", "did you mean 'class 0'"]),
    ("look cam PLACE/grey PLACE/grey.png --stage 4", ["no stage 4", "has 3"]),
    ("look maps PLACE/grey PLACE/grey.png --stage 0", ["--stage"]),
    ("look maps PLACE/grey PLACE/grey.png --out PLACE/grey.png", ["grey.png exists already"]),
    ("look filters PLACE/grey --out PLACE/filters.jpg", [".png"]),
    ("look filters PLACE/grey --out PLACE/nowhere/filters.png", ["nowhere"]),
    ("look filters PLACE/gray", ["did you mean 'grey'"]),
    ("look filter PLACE/grey", ["filter", "filters"]),
    ("export PLACE/grey --format onxx", ["onxx", "onnx"]),
    ("export PLACE/grey --out PLACE/model.pt", [".onnx"]),
    ("export PLACE/grey --out PLACE/nowhere/model.onnx", ["nowhere"]),
    ("export PLACE/grey --tolerance=-1", ["tolerance"]),
    ("export PLACE/scans", ["not a run folder"]),
    ("export PLACE/unfinished", ["no trained model yet", "--resume"]),
    ("look filters PLACE/unfinished", ["no trained model yet", "--resume"]),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command for command, _ in BAD])
def test_one_line_and_exit_code_2(command: str, words: list[str], place: Path, capsys) -> None:
    (place / "unfinished" / "checkpoints").mkdir(parents=True, exist_ok=True)
    before = sorted(place.rglob("*"))
    capsys.readouterr()
    assert run([part.replace("PLACE", str(place)) for part in command.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err
    assert sorted(place.rglob("*")) == before, "a refused command leaves nothing behind"
