"""A fresh head on an unchanged network."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fieldguide import catalog
from fieldguide.blocks.freezing import freeze, unfreeze
from fieldguide.blocks.lora import lora
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.models.heads import reset_head
from fieldguide.optim.groups import parameter_groups


@pytest.mark.parametrize("row", [row for row in catalog.ARCHITECTURES if row.image], ids=lambda row: row.family)
def test_every_family_takes_another_number_of_classes(row, tmp_path) -> None:
    model, side = create_model(f"{row.family}_mini").eval(), row.mini_image[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, model.config.in_channels, side, side)
    assert reset_head(model, 3) is model
    assert model(images).shape == (2, 3)
    after = model.state_dict()
    assert list(after) == list(before)
    changed = {name for name in after if after[name].shape != before[name].shape or not after[name].equal(before[name])}
    assert {"head.weight", "head.bias"} <= changed
    assert all(name.rpartition(".")[0].rpartition(".")[2] == "head" for name in changed)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.num_classes == 3
    assert torch.equal(loaded(images), model(images))


def test_the_new_head_is_like_the_old_one_but_learns() -> None:
    model = nn.ModuleDict({"head": nn.Linear(6, 4, bias=False), "aux": nn.ModuleDict({"head": nn.Linear(5, 4)})})
    freeze(model.bfloat16().eval())
    reset_head(model, 2)
    assert {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in model.named_parameters()} == {
        "head.weight": ((2, 6), torch.bfloat16, True),
        "aux.head.weight": ((2, 5), torch.bfloat16, True),
        "aux.head.bias": ((2,), torch.bfloat16, True),
    }
    assert not any(module.training for module in model.modules())
    with torch.device("meta"):
        model = create_model("resnet50")
    assert reset_head(model, 7).head.weight.device.type == "meta"


def test_a_new_head_starts_as_torch_starts_a_layer() -> None:
    head = reset_head(create_model("resnet50"), 1000).head
    bound = 2048**-0.5
    assert head.weight.abs().max() <= bound
    assert head.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


TEXT = [row.family for row in catalog.ARCHITECTURES if row.task == "encode"]


@pytest.mark.parametrize("family", TEXT)
def test_every_encoder_of_text_takes_other_classes_and_is_tuned_as_others_are(family, tmp_path) -> None:
    model = create_model(f"{family}_mini", head="classify").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.arange(5, 25).view(2, 10)
    reset_head(model, 5)
    assert model(tokens).shape == (2, 5)
    after = model.state_dict()
    assert list(after) == list(before)
    assert {n for n in after if not torch.equal(after[n], before[n])} == {"head.output.weight", "head.output.bias"}
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")(tokens), model(tokens))

    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    rates = {name: group["lr_scale"] for group in groups for name, _ in group["params"]}
    assert rates["head.output.weight"] == 1
    assert rates["embeddings.tokens.weight"] < rates["encoder.layers.0.attention.query.weight"]
    assert rates["encoder.layers.0.attention.query.weight"] < rates["encoder.layers.1.attention.query.weight"] < 1

    freeze(model, "embeddings|encoder.layers.0")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"encoder", "head"}
    unfreeze(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    plain = model(tokens)
    adapted = lora(model, "*.query|*.value", rank=2)
    unfreeze(model, "head")
    assert len(adapted) == 4
    assert torch.equal(model(tokens), plain)
    model(tokens).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (".down." in name or ".up." in name or name.startswith("head.")), name


@pytest.mark.parametrize("head", ["encode", "masked_lm", "pretrain"])
def test_a_head_without_classes_says_how_to_get_them(head) -> None:
    with pytest.raises(FieldguideError, match='which gives no classes; create it with head="classify"'):
        reset_head(create_model("bert_mini", head=head), 3)


def test_other_kinds_of_heads() -> None:
    model = reset_head(create_model("lenet5_1998"), 12)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 12)
    assert model.config.num_classes == 12


@dataclass(frozen=True)
class Config:
    width: int = 3


class Wordy(nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.head = Config(), nn.Linear(3, 9)


def test_refusals() -> None:
    with pytest.raises(FieldguideError, match="num_classes=0 must be at least 1"):
        reset_head(create_model("resnet_mini"), 0)
    with pytest.raises(FieldguideError, match="Sequential has no module named head; it has 0, 1"):
        reset_head(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 3)
    with pytest.raises(FieldguideError, match="the config of Wordy has no num_classes"):
        reset_head(Wordy(), 3)
    half = nn.ModuleDict({"aux": nn.ModuleDict({"head": nn.Linear(2, 2)}), "head": nn.Sequential(nn.Linear(2, 2))})
    with pytest.raises(FieldguideError, match="head is a Sequential without in_features and out_features"):
        reset_head(half, 3)
    assert half["aux"]["head"].out_features == 2
    lora(model := create_model("resnet_mini"), "stages")
    assert reset_head(model, 3).head.weight.requires_grad
    lora(model := create_model("resnet_mini"), "*")
    with pytest.raises(FieldguideError, match="head has a LoRA adapter; reset it first"):
        reset_head(model, 3)
