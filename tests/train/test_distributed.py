"""What many processes compute is what one process computes: gloo between real processes, started once."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

from fieldguide import catalog
from fieldguide.blocks.attention import Attention
from fieldguide.blocks.residual import StochasticDepth
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.objectives import Classification, MaskedToken, NextToken, Phase, SequenceToSequence
from fieldguide.train.checkpoint import Slice
from fieldguide.train.distributed import ALONE, build_strategy
from fieldguide.train.distributed.replicas import rows

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def _images(n, model):
    return torch.randn(n, model.config.in_channels, 32, 32), torch.randint(10, (n,))


def _texts(n, model):
    tokens = torch.randint(4, 60, (n, 9))
    return tokens, torch.arange(9) < 3 + torch.arange(n)[:, None] % 7


def _answers(n, model):
    source, keep = _texts(n, model)
    answer, answer_keep = _texts(n, model)
    return source, answer[:, :6], keep, answer_keep[:, :6]


class Hidden(MaskedToken):
    """Finds the same tokens whoever looks: whether a token is hidden depends on nothing but itself."""

    def weight(self, batch):
        return int(((batch[0] % 3 == 0) & batch[1]).sum())

    def hide(self, tokens, keep, generator=None):
        hidden = (tokens % 3 == 0) & keep
        return tokens.masked_fill(hidden, self.mask_token), tokens.masked_fill(~hidden, -100)


TASKS = {
    "classify": (Classification(), _images, {}),
    "encode": (Hidden(mask_token=1, vocab_size=60), _texts, {"head": "masked_lm"}),
    "generate": (NextToken(), _texts, {}),
    "translate": (SequenceToSequence(start=0), _answers, {}),
}
FAMILIES = {row.family: row.task for row in catalog.ARCHITECTURES if row.task in TASKS}


def _setup(family, dtype, n=7):
    """A model in which nothing is left to chance, and two micro-batches of unequal length."""
    objective, data, head = TASKS[FAMILIES[family]]
    torch.manual_seed(0)
    model = create_model(f"{family}_mini", **head).to(dtype)
    for module in model.modules():
        match module:
            case nn.Dropout():
                module.p = 0.0
            case Attention():
                module.dropout = 0.0
            case StochasticDepth():
                module.rate = 0.0
    batches = [tuple(x.to(dtype) if x.is_floating_point() else x for x in data(n + i, model)) for i in range(2)]
    return model, objective, batches


def _computed(strategy, model, objective, window):
    """The loss, the norm before clipping, the clipped gradients and the buffers of one step."""
    with strategy.spread(model) as own:
        parameters = [p for p in own.parameters() if p.requires_grad]
        batches, shares, total = strategy.split(window, objective.weight)
        loss = 0.0
        for i, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            strategy.expect(i == len(batches) - 1)
            (phase,) = objective.step(own, batch)
            phase.loss.backward(torch.full_like(phase.loss, share))
            loss += share * phase.loss.item()
        strategy.reduce("model", parameters)
        loss = strategy.sum({"loss": loss})["loss"]
        norm = strategy.clip(_clip, 0.1)(parameters).item()
        named = {name: p.grad.detach() for name, p in own.named_parameters() if p.grad is not None}
        return loss, norm, total, strategy.parts(named), dict(own.named_buffers())


def _clip(parameters):
    return torch.nn.utils.clip_grad_norm_(parameters, 0.1)


def _job(group, strategy, family, dtype, n):
    return _computed(build_strategy(strategy, group), *_setup(family, dtype, n))


def _put_together(parts):
    """A whole tensor of what each process has of it."""
    if not isinstance(parts[0], Slice):
        return parts[0]
    whole = torch.cat([part.tensor for part in parts], parts[0].axis)
    assert whole.shape == parts[0].shape
    return whole


def _relative(a, b):
    size = max(x.double().norm().item() for x in b.values())
    return max((a[name].double() - b[name].double()).norm().item() for name in b) / size


def _check(pool, strategy, family, dtype, n=7):
    loss, norm, total, gradients, buffers = _computed(ALONE, *_setup(family, dtype, n))
    results = pool(_job, strategy, family, dtype, n)
    there, there_norm, there_total, own, there_buffers = results[0]
    gathered = {name: _put_together([result[3][name] for result in results]) for name in own}
    tolerance = TOLERANCE[dtype]
    assert there_total == total
    assert there == pytest.approx(loss, rel=tolerance)
    assert there_norm == pytest.approx(norm, rel=3 * tolerance)
    assert gathered.keys() == gradients.keys()
    assert _relative(gathered, gradients) <= tolerance
    for key, buffer in buffers.items():
        torch.testing.assert_close(there_buffers[key], buffer, rtol=1e-5, atol=1e-7)
    assert {result[:3] for result in results} == {results[0][:3]}  # all ranks say the same


PAIRS = [
    *[(strategy, family) for strategy in ("ddp", "fsdp") for family in ("resnet", "bert", "gpt", "t5")],
    *[("tensor", family) for family in ("bert", "gpt", "t5", "swin")],
]
OTHERS = [
    (strategy, family)
    for family in FAMILIES
    for strategy in ("ddp", "fsdp", *["tensor"] * (family in ("vit", "swin") or FAMILIES[family] != "classify"))
    if (strategy, family) not in PAIRS
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("strategy", "family"), PAIRS)
def test_two_processes_have_the_loss_and_gradients_of_one(two, strategy, family, dtype):
    _check(two, strategy, family, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("strategy", "family"), [pair for pair in PAIRS if pair != ("tensor", "swin")])  # 2 heads
def test_four_processes_have_the_loss_and_gradients_of_one(four, strategy, family, dtype):
    _check(four, strategy, family, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "family"), OTHERS)
def test_every_family_is_shared_without_code_of_its_own(two, strategy, family):
    _check(two, strategy, family, torch.float64)


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_smaller_than_the_processes_counts_once(two, n):
    _check(two, "ddp", "gpt", torch.float64, n=n)


def test_rows_are_parted_in_order_and_in_full():
    batch = {"x": torch.arange(7), "y": [torch.arange(14).view(7, 2), "kept"]}
    parts = [rows(batch, rank, 3) for rank in range(3)]
    assert torch.cat([part["x"] for part in parts]).tolist() == list(range(7))
    assert [len(part["y"][0]) for part in parts] == [2, 2, 3]
    assert parts[0]["y"][1] == "kept"
    with pytest.raises(FieldguideError, match=r"have \[2, 3\] rows"):
        rows((torch.zeros(2), torch.zeros(3)), 0, 2)


class Adversarial:
    """Two parts of one model that train in turn, each through the other."""

    def step(self, model, batch):
        fake = model["generator"](batch)
        yield Phase("discriminator", (model["discriminator"](fake.detach()) - batch).square().mean())
        yield Phase("generator", model["discriminator"](fake).square().mean())

    def weight(self, batch):
        return len(batch)


def _in_turn(group):
    """The gradients of both parts, reduced one after the other."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3).double() for name in ("discriminator", "generator")})
    strategy, objective = build_strategy("ddp", group) if group else ALONE, Adversarial()
    window, found = [torch.randn(6, 3, dtype=torch.float64) for _ in range(2)], {}
    with strategy.spread(model) as own:
        batches, shares, _ = strategy.split(window, objective.weight)
        runs = [objective.step(own, batch) for batch in batches]
        for part in own:
            own.zero_grad()
            parameters = [*own[part].parameters()]
            for run, share in zip(runs, shares, strict=True):
                strategy.expect(run is runs[-1])
                loss = next(run).loss
                loss.backward(torch.full_like(loss, share), inputs=parameters)
            strategy.reduce(part, parameters)
            found[part] = torch.cat([parameter.grad.flatten() for parameter in parameters])
    return found


def test_parts_that_train_in_turn_have_the_gradients_of_one_process(two):
    alone = _in_turn(None)
    for part, gradient in two(_in_turn)[0].items():
        torch.testing.assert_close(gradient, alone[part], rtol=1e-12, atol=1e-14)


def _messages(group, strategy, micro):
    """How many sums and gathers a step of so many micro-batches costs, by the kind."""
    strategy = build_strategy(strategy, group)
    model, objective, batches = _setup("gpt", torch.float32)
    with strategy.spread(model) as own:
        parameters = [*own.parameters()]
        for _ in range(2):  # buckets are filled at the end of the first step
            own.zero_grad()
            window, shares, _ = strategy.split([batches[i % 2] for i in range(micro)], objective.weight)
            with CommDebugMode() as seen:
                for i, (batch, share) in enumerate(zip(window, shares, strict=True)):
                    strategy.expect(i == micro - 1)
                    (phase,) = objective.step(own, batch)
                    phase.loss.backward(torch.full_like(phase.loss, share))
                strategy.reduce("model", parameters)
        return {str(kind): count for kind, count in seen.get_comm_counts().items()}


def test_accumulation_sums_gradients_once(two):
    def sums(strategy, micro):
        (counts, _) = two(_messages, strategy, micro)
        return sum(count for kind, count in counts.items() if "reduce" in kind)

    for strategy in ("ddp", "fsdp"):
        assert sums(strategy, 3) == sums(strategy, 1) > 0
