"""What is particular to ResNet's public files: shards, a backbone without a head, and the CIFAR layout."""

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, linear

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights

SMALL = {"depths": (1, 1, 1, 1), "widths": (32, 64, 128, 256), "stem_width": 16}


def small_transformers(model: str, **more):
    library = pytest.importorskip("transformers")
    config = library.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[1] * 4, **more)
    return getattr(library, model)(config)


def test_shards_are_the_whole_file(tmp_path):
    oracle = small_transformers("ResNetForImageClassification", num_labels=7)
    oracle.save_pretrained(tmp_path / "whole")
    oracle.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = (create_model("resnet50", num_classes=7, **SMALL) for _ in range(2))
    load_weights(whole, tmp_path / "whole")
    assert load_weights(shards, tmp_path / "shards").layout == "transformers"
    for (name, one), other in zip(whole.state_dict().items(), shards.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_transformers_without_a_head(tmp_path):
    small_transformers("ResNetModel").save_pretrained(tmp_path)
    report = load_weights(create_model("resnet50", num_classes=5, **SMALL), tmp_path, strict=False)
    assert report.layout == "transformers"
    assert report.kept.keys() == {"head.weight", "head.bias"}


# ------------------------------------------------------------------------------------------------------------- CIFAR


def cifar_checkpoint(n: int) -> dict[str, torch.Tensor]:
    """Random weights of 6n + 2 layers under the public file's names, in float64, with plausible statistics."""
    shapes = {"conv1": (16, 3)}
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(n):
            inputs = width // 2 if stage > 1 and block == 0 else width
            shapes |= {f"layer{stage}.{block}.conv1": (width, inputs), f"layer{stage}.{block}.conv2": (width, width)}
    tensors = {}
    for conv, (outputs, inputs) in shapes.items():
        tensors[f"{conv}.weight"] = torch.randn(outputs, inputs, 3, 3, dtype=torch.float64) / (3 * inputs**0.5)
        norm = conv.replace("conv", "bn")
        tensors[f"{norm}.weight"] = torch.rand(outputs, dtype=torch.float64) + 0.5
        tensors[f"{norm}.bias"] = torch.randn(outputs, dtype=torch.float64) / 5
        tensors[f"{norm}.running_mean"] = torch.randn(outputs, dtype=torch.float64) / 5
        tensors[f"{norm}.running_var"] = torch.rand(outputs, dtype=torch.float64) + 0.5
    return tensors | {
        "linear.weight": torch.randn(10, 64, dtype=torch.float64),
        "linear.bias": torch.randn(10, dtype=torch.float64),
    }


def cifar_forward(w: dict[str, torch.Tensor], n: int, x: torch.Tensor) -> torch.Tensor:
    """He et al. 2016, §4.2, from the text: eq. 1 with option A, and a mean before the last layer."""

    def normed(x, conv, stride=1):
        norm = conv.replace("conv", "bn")
        statistics = (w[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(conv2d(x, w[f"{conv}.weight"], stride=stride, padding=1), *statistics)

    x = normed(x, "conv1").relu()
    for stage in (1, 2, 3):
        for block in range(n):
            stride = 2 if stage > 1 and block == 0 else 1
            y = normed(x, f"layer{stage}.{block}.conv1", stride).relu()
            y = normed(y, f"layer{stage}.{block}.conv2")
            if stride == 2:
                half = x.shape[1] // 2
                y[:, half : half + x.shape[1]] += x[:, :, ::2, ::2]
                x = y.relu()
            else:
                x = (x + y).relu()
    return linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])


@pytest.mark.parametrize(("name", "n"), [("resnet20_cifar", 3), ("resnet32_cifar", 5), ("resnet56_cifar", 9)])
def test_the_public_cifar_file_computes_what_the_paper_says(name, n, tmp_path):
    """As published: wrapped, saved from DataParallel, in torch's format of before 2020, without counts of batches."""
    theirs = cifar_checkpoint(n)
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in theirs.items()}, "best_prec1": 91.78}
    torch.save(wrapped, tmp_path / "r.th", _use_new_zipfile_serialization=False)
    model = create_model(name).double()
    report = load_weights(model, tmp_path / "r.th")
    assert report.layout == "cifar"
    assert set(report.kept.values()) == {"older files do not count batches"}

    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = cifar_forward(theirs, n, images)
    assert (cifar_forward(theirs, n, images.flip(0)) - expected).norm() / expected.norm() > 0.01
    assert (model.eval()(images) - expected).norm() / expected.norm() < 1e-12

    exported = export_weights(model, "cifar")
    assert list(exported) == list(theirs)
    assert all(torch.equal(exported[name], theirs[name]) for name in theirs)


def test_a_cifar_file_of_another_depth_is_named():
    with pytest.raises(FieldguideError, match=r"60 missing .*it looks like resnet20_cifar in cifar layout"):
        load_weights(create_model("resnet32_cifar"), cifar_checkpoint(3))


def test_option_b_has_a_convolution_in_its_shortcut():
    """The same repository's other option; its files name the projection and its norm by number."""
    model = create_model("resnet20_cifar", shortcut="projection")
    theirs = export_weights(model, "cifar")
    assert {"layer2.0.shortcut.0.weight", "layer3.0.shortcut.1.running_var"} <= theirs.keys()
    other = create_model("resnet20_cifar", shortcut="projection")
    assert load_weights(other, theirs).layout == "cifar"
    assert torch.equal(other.stages[1][0].shortcut.conv.weight, model.stages[1][0].shortcut.conv.weight)
