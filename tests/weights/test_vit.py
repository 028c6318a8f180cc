"""ViT's public layouts: files that torchvision, timm and transformers write, and networks that agree in float64."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import VisionTransformer

from fieldguide.errors import FieldguideError
from fieldguide.models.vision.vit import ViT, ViTConfig
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.adapt import Wanted, class_token_and_grid

SIZE = {"image_size": 32, "patch_size": 8, "d_model": 24, "num_layers": 2, "num_heads": 3, "d_ff": 48, "num_classes": 7}


def vit(**changes):
    return ViT(ViTConfig(**(SIZE | changes))).double()


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def jitter(model: nn.Module) -> nn.Module:
    """Every parameter random: initial zeros and ones would hide a wrong place, and a zero head everything."""
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    return model.eval()


def logits(output):
    return output if isinstance(output, torch.Tensor) else output.logits


@torch.no_grad()
def assert_parity(ours: nn.Module, oracle: nn.Module, tolerance: float = 1e-10) -> None:
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = logits(oracle(images))
    assert (expected - logits(oracle(images.flip(0)))).norm() / expected.norm() > 1e3 * tolerance
    assert (ours.eval()(images) - expected).norm() / expected.norm() < tolerance


def torchvision_vit():
    return jitter(VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=7).double())


def test_torchvision():
    oracle, model = torchvision_vit(), vit()
    assert load_weights(model, oracle.state_dict(), family="vit").layout == "torchvision"
    assert_parity(model, oracle)
    exported = export_weights(model, "torchvision")
    assert_same(exported, oracle.state_dict())
    VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=7).load_state_dict(exported)
    old = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): t for n, t in exported.items()}
    assert load_weights(vit(), old).layout == "torchvision"


def test_timm():
    timm = pytest.importorskip("timm")
    oracle = timm.models.vision_transformer.VisionTransformer(
        32, 8, num_classes=7, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2
    )
    oracle, model = jitter(oracle.double()), vit()
    assert load_weights(model, oracle.state_dict()).layout == "timm"
    assert_parity(model, oracle)
    assert_same(export_weights(model, "timm"), oracle.state_dict())


def test_transformers_on_disk(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=7, layer_norm_eps=1e-6, attn_implementation="sdpa",
    )  # fmt: skip
    oracle, model = jitter(transformers.ViTForImageClassification(config).double()), vit()
    oracle.save_pretrained(tmp_path / "whole")
    assert load_weights(model, tmp_path / "whole").layout == "transformers"
    assert_parity(model, oracle)
    assert_same(export_weights(model, "transformers"), load_file(tmp_path / "whole" / "model.safetensors"))
    transformers.ViTModel(config).save_pretrained(tmp_path / "headless")
    report = load_weights(vit(), tmp_path / "headless", strict=False)
    assert report.kept.keys() == {"head.weight", "head.bias"}
    assert report.ignored.keys() == {"vit.pooler.dense.weight", "vit.pooler.dense.bias"}


def test_another_image_size_resizes_the_positions_when_allowed():
    published, model = torchvision_vit().state_dict(), vit(image_size=48)
    with pytest.raises(FieldguideError, match=r"pos_embedding is \(17, 24\) .*strict=False to adapt positions.weight"):
        load_weights(model, published)
    report = load_weights(model, published, strict=False)
    assert report.adapted.keys() == {"positions.weight"}
    assert torch.equal(model.positions.weight[0], published["encoder.pos_embedding"][0, 0])
    assert model(torch.randn(1, 3, 48, 48).double()).shape == (1, 7)


@pytest.mark.parametrize(("side", "new_side"), [(2, 5), (4, 4), (6, 3), (14, 24), (1, 3)])
def test_resized_positions_keep_the_class_token_constants_and_symmetry(side, new_side):
    positions = torch.randn(1 + side**2, 5)
    shape = (1 + new_side**2, 5)
    wanted = Wanted(values=torch.empty(shape))
    resized = class_token_and_grid(positions, wanted)
    assert torch.equal(resized[0], positions[0])
    flat = class_token_and_grid(torch.ones_like(positions), wanted)
    torch.testing.assert_close(flat, torch.ones(shape))
    mirrored = torch.cat((positions[:1], positions[1:].view(side, side, 5).flip(1).reshape(-1, 5)))
    expected = torch.cat((resized[:1], resized[1:].view(new_side, new_side, 5).flip(1).reshape(-1, 5)))
    torch.testing.assert_close(class_token_and_grid(mirrored, wanted), expected)


@pytest.mark.parametrize("shape", [(17, 8), (18, 5), (1, 5), (0, 5), (17,)])
def test_what_is_no_square_grid_is_not_resized(shape):
    assert class_token_and_grid(torch.ones(10, 5), Wanted(values=torch.empty(shape))) is None
    assert class_token_and_grid(torch.ones(11, 5), Wanted(values=torch.empty(17, 5))) is None
