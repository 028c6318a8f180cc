"""What is frozen does not move, running statistics included, and what is not frozen does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.blocks.freezing import freeze, unfreeze
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.optim import build_optimizer

IMAGES = torch.randn(16, 1, 16, 16) * 2 + 3


def resnet() -> nn.Module:
    """With running statistics unlike those of ``IMAGES``."""
    model = create_model("resnet_mini").train()
    model(torch.randn(16, 1, 16, 16))
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_only_what_is_not_frozen_moves_in_training() -> None:
    model = resnet()
    frozen = freeze(model, "stem|stages.0-1")
    before = state(model)
    optimizer = build_optimizer(model)
    for _ in range(2):
        cross_entropy(model.train()(IMAGES), torch.arange(16) % 10).backward()
        optimizer.step()
    assert set(frozen) == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert moved(model, before) == {name for name in before if name.startswith(("stages.2", "head"))}


def test_a_frozen_norm_normalises_by_its_running_statistics() -> None:
    model = resnet()
    freeze(model)
    before, expected = state(model), model.eval()(IMAGES)
    for mode in (model.train, model.eval, model.train):
        mode()
        assert torch.equal(model(IMAGES), expected)
    assert model.training
    assert not moved(model, before)
    unfreeze(model)
    assert not torch.allclose(model(IMAGES), expected, atol=0.1)


def test_thawed_norms_follow_the_model_again() -> None:
    model = resnet()
    never = copy.deepcopy(model)
    freeze(model)
    assert unfreeze(model, "stages.2|head") == tuple(
        name for name, p in model.named_parameters() if name.startswith(("stages.2", "head")) and p.requires_grad
    )
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(norm.training == name.startswith("stages.2") for name, norm in norms.items())
    unfreeze(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(IMAGES), never(IMAGES))
    assert not any(module.training for module in model.eval().modules())


def test_copies_are_frozen_by_themselves_and_files_know_nothing(tmp_path) -> None:
    model = resnet()
    freeze(model)
    twin = copy.deepcopy(model)
    unfreeze(model)
    before = state(twin)
    twin.train()(IMAGES)
    assert not moved(twin, before)
    assert model.train().stem.norm.training
    save_model(twin, tmp_path / "model")
    loaded = load_model(tmp_path / "model").train()
    assert loaded.stem.norm.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_norms_without_parameters_and_instance_norms_are_held_too() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.InstanceNorm2d(4, track_running_stats=True)
    )
    freeze(model)
    before = state(model)
    expected = model.eval()(IMAGES)
    assert torch.equal(model.train()(IMAGES), expected)
    assert not moved(model, before)


@pytest.mark.slow
def test_a_compiled_model_stays_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    freeze(model, "0-1")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    before = state(model)
    expected = model[1].eval()(model[0](IMAGES))
    compiled.train()
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    compiled(IMAGES)
    torch.testing.assert_close(seen[0], expected)
    assert moved(model, before) == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


def test_a_part_without_parameters_is_refused() -> None:
    with pytest.raises(FieldguideError, match="'pool' selects no parameter of ResNet"):
        freeze(create_model("resnet_mini"), "stem|pool")
