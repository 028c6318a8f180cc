"""How public weights want their images: read from what lies beside them, and done as their library does it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from fieldguide.errors import DamagedFile
from fieldguide.models import create_model, load_model, save_model
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.preprocessing import TO_PLUS_MINUS_ONE, Preprocessing, preprocessing_of


@pytest.fixture(scope="module")
def published():
    return models.resnet18().state_dict()


@pytest.fixture
def photo():
    """A smooth image, as photographs are, with odd sides."""
    coarse = torch.rand(2, 3, 30, 41, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, (301, 407), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "efficientnet_b3", "mobilenet_v3_large"])
def test_a_torchvision_file_is_known_by_its_hash_and_prepared_alike(name, photo, tmp_path):
    for entry in models.get_model_weights(name):
        found = preprocessing_of(tmp_path / entry.url.rpartition("/")[2], name, "torchvision")
        expected = entry.transforms()(photo)
        tolerance = 1 / 255 / min(found.std)  # one grey level: they round in another place
        torch.testing.assert_close(found(photo), expected, rtol=0, atol=1.01 * tolerance)
        assert (found(photo) - expected).abs().mean() < 0.02 * tolerance


def test_the_public_inception_networks_want_minus_one_to_one():
    for name, size in (("googlenet", 224), ("inception_v3", 299)):
        found = preprocessing_of(None, name, "torchvision")
        assert (found.mean, found.std, found.size) == (TO_PLUS_MINUS_ONE, TO_PLUS_MINUS_ONE, size)


def test_the_cifar_networks_see_small_images():
    found = preprocessing_of(None, "resnet20_cifar", "cifar")
    assert found == Preprocessing(size=32, resize=32)


def test_text_is_not_prepared_as_an_image():
    model = create_model("gpt_mini")
    assert load_weights(create_model("gpt_mini"), export_weights(model, "transformers")).preprocessing is None


def test_what_timm_writes(tmp_path, published):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18")
    cfg = {
        **model.default_cfg,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "crop_pct": 0.95,
        "input_size": [3, 288, 288],
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": cfg}, default=str))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    ours = create_model("resnet18", weights=tmp_path)
    assert ours.preprocessing == Preprocessing(
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), size=288, resize=303, interpolation=cfg["interpolation"]
    )


@pytest.mark.parametrize(
    ("entries", "size", "resize", "interpolation"),
    [
        ({"size": {"height": 224, "width": 224}, "resample": 2, "do_resize": True}, 224, 224, "bilinear"),
        ({"size": 224, "resample": 3}, 224, 224, "bicubic"),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, 224, 256, "bicubic"),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}, 224, 256,
         "bilinear"),
    ],
    ids=["vit", "old vit", "resnet", "mobilenet"],
)  # fmt: skip
def test_what_transformers_writes(tmp_path, published, entries, size, resize, interpolation):
    entries = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], **entries}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(entries))
    torch.save(published, tmp_path / "pytorch_model.bin")
    found = load_weights(create_model("resnet18"), tmp_path).preprocessing
    assert found == Preprocessing(
        mean=TO_PLUS_MINUS_ONE, std=TO_PLUS_MINUS_ONE, size=size, resize=resize, interpolation=interpolation
    )


@pytest.mark.parametrize(
    "entries",
    [
        {"image_mean": [0.5]},
        {"image_mean": "0.5", "image_std": [1]},
        {"image_mean": [0, 0, 0], "image_std": [0, 1, 1]},
        [],
    ],
)
def test_nonsense_beside_the_weights_is_refused_in_one_line(tmp_path, published, entries):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(entries))
    torch.save(published, tmp_path / "pytorch_model.bin")
    model = create_model("resnet18")
    before = model.head.weight.clone()
    with pytest.raises(DamagedFile, match="how to prepare images") as caught:
        load_weights(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.head.weight, before)


def test_it_stays_with_the_model(tmp_path, published):
    model = create_model("resnet18", weights=published)
    assert model.preprocessing == Preprocessing()
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").preprocessing == Preprocessing()
    assert create_model("resnet18", weights=tmp_path / "model", num_classes=3).preprocessing == Preprocessing()
    assert create_model("resnet18").preprocessing is None


def test_a_damaged_description_in_a_saved_model_is_refused(tmp_path, published):
    save_model(create_model("resnet18", weights=published), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    entries = json.loads(config.read_text())
    config.write_text(json.dumps(entries | {"preprocessing": entries["preprocessing"] | {"size": 0}}))
    with pytest.raises(DamagedFile, match=r"preprocessing in .*config.json: .*size 0 of 256"):
        load_model(tmp_path / "model")
