"""Saved models: bit-identical, closed, and refused by name when damaged."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fieldguide import __version__
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.models import create_model, load_model, read_config, save_model, store
from fieldguide.models.store import load_tensors

DATA = {
    "kind": "images",
    "classes": ["a", "b"],
    "channels": 1,
    "image_size": [16, 16],
    "mean": [0.25],
    "std": [0.5],
    "resize": "fit",
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("store") / "model"
    save_model(create_model("resnet_mini", num_classes=2), folder, extra={"data": DATA})
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "model")


def edit(folder, **changes):
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**entries, **changes}.items() if v != "DELETE"}))


def test_what_the_folder_says(pristine):
    assert {path.name for path in pristine.iterdir()} == {"config.json", "model.safetensors"}
    stored = read_config(pristine)
    assert (stored.name, stored.row.family, stored.version) == ("resnet_mini", "resnet", __version__)
    assert stored.config == create_model("resnet_mini", num_classes=2).config
    assert stored.data == DATA


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip_is_bit_identical_in_every_type(tmp_path, dtype):
    model = create_model("resnet_mini").to(dtype)
    model(torch.randn(4, 1, 8, 8, dtype=dtype))
    save_model(model.to(memory_format=torch.channels_last), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_loaded_weights_do_not_hang_on_the_file(folder):
    model = load_model(folder)
    before = model.head.weight.clone()
    (folder / "model.safetensors").write_bytes(b"")
    assert torch.equal(model.head.weight, before)


def test_saving_again_replaces_the_model_and_leaves_nothing_else(folder):
    model = create_model("resnet_mini", num_classes=5)
    save_model(model, folder)
    assert read_config(folder).config.num_classes == 5
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_crash_while_writing_leaves_the_old_model(folder, monkeypatch):
    def full_disk(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(create_model("resnet_mini", num_classes=5), folder)
    assert load_model(folder).config.num_classes == 2
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FieldguideError, match="holds other files than a saved model"):
        save_model(create_model("lenet_mini"), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_only_networks_of_the_catalog_are_stored(tmp_path):
    with pytest.raises(FieldguideError, match="stores networks of the catalog, Linear is none"):
        save_model(nn.Linear(2, 2), tmp_path / "model")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"data": DATA | {"colour": 1}}, r"1 unknown \(colour\)"),
        ({"data": {k: v for k, v in DATA.items() if k != "mean"}}, r"1 missing \(mean\)"),
        ({"data": DATA | {"resize": None}}, r"1 of the wrong kind \(resize\)"),
        ({"data": DATA | {"kind": "sounds"}}, r"kind is 'sounds'; known: images, text, table"),
        ({"optimizer": 3}, r"1 unknown \(optimizer\)"),
    ],
)
def test_what_is_added_has_a_closed_schema(tmp_path, extra, message):
    with pytest.raises(FieldguideError, match=message):
        save_model(create_model("lenet_mini"), tmp_path / "model", extra=extra)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"author": "me"}, r"config.json: 1 unknown \(author\)"),
        ({"sha256": "DELETE"}, r"config.json: 1 missing \(sha256\)"),
        ({"family": "perceptron"}, "is of family 'perceptron', which this fieldguide lacks"),
        ({"family": ["resnet"]}, r"1 of the wrong kind \(family\)"),
        ({"config": {"num_classes": 2}}, r"config in .*: \d missing \(depths, groups"),
        ({"config": 3}, r"1 of the wrong kind \(config\)"),
        ({"data": {"classes": []}}, r"data in .*: kind is None; known: images"),
        ({"data": {"kind": "images", "classes": []}}, r"data in .*: \d missing"),
        ({"name": None}, r"1 of the wrong kind \(name\)"),
        ({"data": DATA | {"mean": 0.5}}, r"data in .*: 1 of the wrong kind \(mean\)"),
    ],
)
def test_a_config_outside_the_schema_is_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(DamagedFile, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "must be an object with fieldguide, name"), ("{", "is not whole JSON")]
)
def test_a_config_that_is_no_object_is_refused(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(DamagedFile, match=message):
        load_model(folder)


def test_a_config_value_of_the_wrong_kind_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())["config"]
    edit(folder, config=config | {"groups": "many"})
    with pytest.raises(DamagedFile, match=r"groups of the config in .* must be int, got 'many'"):
        load_model(folder)


def test_another_architecture_is_refused_by_its_tensors(folder):
    lenet = create_model("lenet_mini")
    save_model(lenet, folder.parent / "lenet")
    shutil.copy(folder.parent / "lenet" / "model.safetensors", folder)
    edit(folder, sha256=read_config(folder.parent / "lenet").sha256)
    with pytest.raises(DamagedFile, match=r"does not fit resnet_mini: \d+ missing \(stages.*; \d+ surplus \(hidden"):
        load_model(folder)


def test_missing_surplus_and_misshapen_tensors_are_all_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["head.weight"] = torch.zeros(3, 64)
    path = folder.parent / "edited.safetensors"
    save_file(tensors, path)
    with pytest.raises(DamagedFile) as caught:
        load_tensors(create_model("resnet_mini", num_classes=2), path)
    message = str(caught.value)
    assert "1 missing (head.bias)" in message
    assert "1 surplus (extra.weight)" in message
    assert "head.weight is (3, 64) in the file and (2, 64) in the model" in message
    assert "\n" not in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_and_empty_files_are_named(folder, file):
    (folder / file).write_bytes(b"")
    with pytest.raises(DamagedFile, match=file):
        load_model(folder)
    (folder / file).unlink()
    with pytest.raises(DamagedFile, match=f"cannot read .*{file}"):
        load_model(folder)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_to_the_weights_goes_unnoticed(pristine, tmp_path_factory, data):
    """One flipped bit anywhere, or any truncation: refused, never loaded and never another exception."""
    folder = shutil.copytree(pristine, tmp_path_factory.mktemp("damaged") / "model")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        load_model(folder)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_even_without_a_checksum(pristine, tmp_path_factory, data):
    content = bytearray((pristine / "model.safetensors").read_bytes())
    content[data.draw(st.integers(0, 400))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    path.write_bytes(content)
    try:
        load_tensors(create_model("resnet_mini", num_classes=2), path)
    except DamagedFile:
        return
    # Some flips swap in another header that is as valid, such as a digit of two offsets; then all tensors fitted.
    assert load_file(path).keys() == create_model("resnet_mini").state_dict().keys()


def test_nothing_executable_is_read(folder, tmp_path):
    """A pickle in the place of the weights is refused by its bytes."""
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(DamagedFile, match="not a whole safetensors file"):
        load_tensors(create_model("resnet_mini"), tmp_path / "pickle.safetensors")
