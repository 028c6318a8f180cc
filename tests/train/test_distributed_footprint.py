"""Bytes by arithmetic against bytes counted: on paper that runs (torch's fake group), and on one real process."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.optim import build_optimizer
from fieldguide.train.distributed.footprint import per_rank_bytes
from fieldguide.train.distributed.fsdp import blocks, shard
from fieldguide.train.distributed.tensor import cut, plan_for


def _meta(name, **overrides):
    with torch.device("meta"):
        return create_model(name, **overrides)


def _local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _counted(model, optimizer):
    """What a process holds after one real step: every tensor, one by one."""
    stepper = build_optimizer(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepper.step()
    kept = [value for state in stepper.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    parameters = [*model.parameters()]
    groups = parameters, [p.grad for p in parameters], kept
    return tuple(sum(_local(tensor).numel() * tensor.itemsize for tensor in group) for group in groups)


def _bytes(footprint):
    return footprint.parameters, footprint.gradients, footprint.optimizer


@pytest.fixture
def fake():
    """Starts a fake group: one process that believes to be one of many."""

    def start(size, rank):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
        return init_device_mesh("cpu", (size,))

    yield start
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "size", "optimizer"),
    [("gpt2", 64, "adamw"), ("gpt2", 1024, "adamw"), ("resnet50", 64, "sgd"), ("resnet50", 1024, "sgd"),
     ("t5_small", 1024, "adamw")],
)  # fmt: skip
def test_fsdp_at_scale_owns_what_arithmetic_says(fake, name, size, optimizer):
    whole = _meta(name)
    for rank in (0, size // 2 + 1, size - 1):
        mesh, model = fake(size, rank), _meta(name)
        shard(model, mesh)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert _counted(model, optimizer) == _bytes(per_rank_bytes(whole, "fsdp", size, optimizer, rank))
    owned = sum(per_rank_bytes(whole, "fsdp", size, rank=rank).parameters for rank in range(size))
    assert owned == sum(parameter.nbytes for parameter in whole.parameters())  # nothing is owned twice, or by nobody


@pytest.mark.parametrize("size", [64, 1024])
def test_a_step_at_scale_leaves_each_process_the_gradients_it_owns(fake, size):
    model = create_model("gpt_mini")
    whole = {name: parameter.shape for name, parameter in model.named_parameters()}
    shard(model, fake(size, 3))
    model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert isinstance(parameter, DTensor)
        assert isinstance(gradient, DTensor)
        assert gradient.shape == parameter.shape == whole[name]
        assert gradient.to_local().shape == parameter.to_local().shape


@pytest.mark.parametrize(("name", "size"), [("gpt3_175b", 96), ("t5_11b", 64), ("bert_base", 4), ("vit_b_16", 4)])
def test_tensor_at_scale_owns_what_arithmetic_says(name, size):
    for rank in (0, size - 1):
        model = _meta(name)
        cut(model, plan_for(model, size), rank, size)
        assert _counted(model, "adamw") == _bytes(per_rank_bytes(_meta(name), "tensor", size, "adamw", rank))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "radam", "nadam", "rmsprop", "sgd"])
def test_one_process_holds_what_arithmetic_says(optimizer):
    model = create_model("gpt_mini")
    assert _counted(model, optimizer) == _bytes(per_rank_bytes(model, "ddp", 8, optimizer))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt_mini", {"decoder.layers.0", "decoder.layers.1"}),
        ("t5_mini", {"encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"}),
        ("resnet_mini", {"stages.0", "stages.1", "stages.2"}),
    ],
)
def test_blocks_are_layers_and_stages(name, expected):
    assert set(blocks(_meta(name))) >= expected


def test_what_cannot_be_shared_says_why():
    with pytest.raises(FieldguideError, match="ResNet has no attention or feed-forward block"):
        per_rank_bytes(_meta("resnet_mini"), "tensor", 2)
    with pytest.raises(FieldguideError, match=r"the 12 heads of decoder\.layers\.0\.attention do not divide among 8"):
        per_rank_bytes(_meta("gpt2"), "tensor", 8)
    with pytest.raises(FieldguideError, match="did you mean 'fsdp'"):
        per_rank_bytes(_meta("gpt_mini"), "fspd", 2)
