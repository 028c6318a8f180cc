"""``fieldguide look attention`` on networks for images and for text, as runs leave them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image

from fieldguide.cli import run
from fieldguide.cli.tasks.text import bytes_for
from fieldguide.models import create_model, save_model
from fieldguide.train.run import RunFolder

IMAGES = {"kind": "images", "classes": [*"0123456789"], "channels": 1, "mean": [0.3], "std": [0.4],
          "resize": "cover, then centre crop"}  # fmt: skip
TEXT = {"kind": "text", "classes": None, "length": 64}
NETWORKS = {
    "vit_mini": {"image_size": (32, 24)},
    "swin_mini": {},
    "resnet_mini": {},
    "gpt_mini": {},
    "bert_mini": {"head": "masked_lm"},
    "t5_mini": {},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each network, with random weights, and an image."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("place")
    for name, changes in NETWORKS.items():
        folder, family = RunFolder.create_at(place / name), name.removesuffix("_mini")
        if family in ("vit", "swin", "resnet"):
            data = {**IMAGES, "image_size": [32, 24 if family == "vit" else 32]}
            save_model(create_model(name, **changes), folder.model, extra={"data": data})
        else:
            tokenizer = bytes_for(family)
            model = create_model(name, vocab_size=tokenizer.vocab_size, **changes)
            save_model(model, folder.model, extra={"data": TEXT}, tokenizer={"tokenizer.json": tokenizer.to_json()})
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(place / "ramp.png")
    return place


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("vit_mini PLACE/ramp.png", "attention-ramp.png"),
        ("vit_mini PLACE/ramp.png --layer 2 --head 3", "attention-ramp-layer2-head3.png"),
        ("gpt_mini def_add(a,b):", "attention-def_add-a-b.png"),
        ("gpt_mini def_add(a,b): --head 2", "attention-def_add-a-b-head2.png"),
        ("bert_mini ☃/../☃ --layer 1 --head 1", "attention-text-layer1-head1.png"),
        ("t5_mini hello", "attention-hello.png"),
        ("t5_mini hello --cross", "attention-hello-cross.png"),
    ],
)
def test_a_picture_is_left_in_the_run(command: str, file: str, place: Path, capsys) -> None:
    name, *rest = command.replace("PLACE", str(place)).split()
    assert run(["look", "attention", str(place / name), *rest]) == 0
    expected = place / name / "figures" / file
    assert capsys.readouterr().out == f"{expected}\n"
    picture = imread(expected)
    assert min(picture.shape[:2]) > 200
    assert np.ptp(picture[..., :3], axis=-1).max() > 0.3, "coloured"


BAD = [
    ("swin_mini PLACE/ramp.png", ["swin_mini attends within windows", "look maps"]),
    ("resnet_mini PLACE/ramp.png", ["resnet_mini has no attention", "look cam"]),
    ("vit_mini PLACE/none.png", ["none.png", "no such file"]),
    ("vit_mini PLACE/ramp.png --layer 5", ["no layer 5", "has 4, numbered from 1"]),
    ("vit_mini PLACE/ramp.png --head 5", ["no head 5"]),
    ("vit_mini PLACE/ramp.png --head 0", ["--head"]),
    ("vit_mini PLACE/ramp.png --cross", ["vit_mini answers no text", "--cross"]),
    ("gpt_mini hello --cross", ["gpt_mini answers no text"]),
    ("gpt_mini hello --layer 3", ["no layer 3"]),
    (f"gpt_mini {'x' * 65}", ["65 tokens; give 1 to 64"]),
    ("gpt_mini hello --out PLACE/ramp.png", ["exists already"]),
    ("gpt_mini hello --out PLACE/a.jpg", [".png"]),
    ("gtp_mini hello", ["did you mean"]),
]


@pytest.mark.parametrize(("command", "words"), BAD, ids=[command[:40] for command, _ in BAD])
def test_one_line_and_exit_code_2(command: str, words: list[str], place: Path, capsys) -> None:
    name, *rest = command.replace("PLACE", str(place)).split()
    before = sorted(place.rglob("*"))
    assert run(["look", "attention", str(place / name), *rest]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert all(word in err for word in words), err
    assert sorted(place.rglob("*")) == before


def test_an_empty_text(place: Path, capsys) -> None:
    assert run(["look", "attention", str(place / "gpt_mini"), ""]) == 2
    assert "give 1 to 64" in capsys.readouterr().err
