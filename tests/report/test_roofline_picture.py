"""The picture of a roofline: what it says is what was measured, whatever there is to draw."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from fieldguide.profile import profile
from fieldguide.report.roofline_picture import draw_roofline


@pytest.fixture(scope="module")
def found():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return profile(model, torch.randn(2, 1, 8, 8), train=True, seconds=0.01, data=[0, 0, 0])


def test_layers_move_what_their_operations_move(found):
    """Float32: inputs, weights, results; views move nothing, and the backward pass belongs to no layer."""
    rows = {row.name: row for row in found.rows()}
    assert rows["0"].moved_bytes == 4 * (2 * 64 + 36 + 4 + 2 * 4 * 36)
    assert rows["1"].moved_bytes == 4 * 2 * (2 * 4 * 36)
    assert rows["2"].moved_bytes == 0
    assert rows["3"].moved_bytes == 4 * (2 * 144 + 3 * 144 + 3 + 2 * 3)
    assert rows["(between layers)"].moved_bytes == 0
    assert sum(row.moved_bytes for row in rows.values()) < found.roof.bytes == sum(o.bytes for o in found.operations)


def test_the_picture_names_the_limit_and_the_layers(found, tmp_path):
    file = draw_roofline(found, tmp_path / "roof.svg")
    tree = ElementTree.parse(file)
    assert tree.getroot().tag.endswith("svg")
    said = " ".join(re.findall(r"<!-- (.*?) -->", file.read_text()))
    for word in (f"{found.roof.binds} binds the training step", "Conv2d", "Linear", "measured", "launch", "data"):
        assert word in said
    assert "ReLU" not in said
    assert not re.search(r"(?:href|src)=\"(?!#)", file.read_text())


@pytest.mark.parametrize("changes", [{"flops": 0}, {"data": 9.0}, {"bytes": 0}, {"overlaps": True}])
def test_whatever_binds_is_drawn(found, tmp_path: Path, changes):
    changed = replace(found, step=None, roof=replace(found.roof, **changes))
    picture = draw_roofline(changed, tmp_path / "roof.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    if "data" in changes:
        assert changed.roof.binds == "data"
