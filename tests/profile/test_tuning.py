"""Tuned networks against the originals: same answers, whatever is laid over what; who wins; what is left behind."""

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import fieldguide as fg
from fieldguide.cli.examples import sample_of
from fieldguide.profile.tuning import TunedModel
from fieldguide.profile.tuning.answers import alike, difference
from fieldguide.profile.tuning.candidate import Candidate, Choice, Subject
from fieldguide.profile.tuning.compiling import OutOfTime, at_most
from fieldguide.profile.tuning.folding import Folded
from fieldguide.profile.tuning.inference import candidates
from fieldguide.profile.tuning.layout import ChannelsLast
from fieldguide.profile.tuning.packing import Int8Weights, PackedConv, PackedWeights
from fieldguide.profile.tuning.pairs import pairs
from fieldguide.profile.tuning.precision import Autocast, Products, Weights
from fieldguide.profile.tuning.search import Search
from fieldguide.profile.tuning.surroundings import Threads
from fieldguide.profile.tuning.tuned import Trial

CPU = torch.device("cpu")
EXACT: list[Choice] = [
    (Folded(),),
    (ChannelsLast(),),
    (PackedWeights(),),
    (Products("medium"),),
    (Folded(), ChannelsLast(), PackedWeights(), Threads(1)),
]
ROUNDED: list[Choice] = [
    (Autocast(),),
    (Weights(),),
    (Folded(), ChannelsLast(), Autocast(), PackedWeights()),
    (Folded(), ChannelsLast(), Weights(), PackedWeights()),
    (Int8Weights(), PackedWeights()),
]
MODELS = ("resnet_mini", "mobilenet_mini", "efficientnet_mini", "inception_mini", "swin_mini", "vit_mini", "gpt_mini",
          "bert_mini", "t5_mini", "mlp_mini")  # fmt: skip
bf16 = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="no bf16 on this processor",
)


def error_of(model: nn.Module, chosen: Choice, arguments: tuple[torch.Tensor, ...], *others: object) -> float:
    """The tuned network's worst relative error, also for arguments that it was not made with."""
    dtype = next(model.parameters()).dtype
    tuned = TunedModel(model, chosen, arguments, dtype)
    errors = []
    for given in (arguments, *others):
        with torch.no_grad():
            expected = model.eval()(*given)
        errors.append(difference([tuned(*given)], [expected]))
    return max(errors)


def trained_norms(model: nn.Module) -> nn.Module:
    """Statistics and maps that are not the identity, as a training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_settings_keep_the_answers(name: str) -> None:
    torch.manual_seed(0)
    model, example, _ = sample_of(name, batch=3)
    trained_norms(model)
    more = tuple(torch.cat([x, x]) for x in alike(example))  # another size of batch, other numbers
    for chosen in EXACT:
        assert error_of(model, chosen, example, more) < 1e-5, chosen


@bf16
@pytest.mark.parametrize("name", ["resnet_mini", "vit_mini", "gpt_mini", "t5_mini"])
def test_rounding_costs_what_it_must(name: str) -> None:
    torch.manual_seed(0)
    model, example, _ = sample_of(name, batch=3)
    trained_norms(model)
    for chosen in ROUNDED:
        assert 1e-5 < error_of(model, chosen, example) < 0.06, chosen


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.GELU()])
@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(4, 8, (1, 3), padding=(0, 2), bias=False)],
    ids=str,
)
def test_packed_convolutions(conv: nn.Conv2d, activation: nn.Module | None) -> None:
    model = nn.Sequential(*filter(None, [conv, activation]))
    x, y = torch.randn(2, conv.in_channels, 9, 9), torch.randn(3, conv.in_channels, 17, 5)
    assert error_of(model, (PackedWeights(),), (x,), (y,)) < 1e-6
    assert error_of(model, (ChannelsLast(), PackedWeights()), (x,), (y,)) < 1e-6
    packed = TunedModel(model, (PackedWeights(),), (x,), torch.float32).network
    assert isinstance(packed[0], PackedConv)
    assert packed[0].in_channels == conv.in_channels
    assert len([m for m in packed if isinstance(m, nn.Identity)]) == (activation is not None) - isinstance(
        activation, nn.GELU
    )


def test_a_folded_norm_is_exact() -> None:
    """In double precision nothing but rounding may remain; also after a linear layer and in one dimension."""
    images = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5)).double()
    rows = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).double()
    for model, x in ((images, torch.randn(2, 3, 6, 6).double()), (rows, torch.randn(5, 4).double())):
        trained_norms(model)
        assert error_of(model, (Folded(),), (x,)) < 1e-14
    kept = TunedModel(images, (Folded(),), (torch.randn(2, 3, 6, 6).double(),), torch.float64).network
    assert [type(m) for m in kept] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.BatchNorm2d]


class Sum(nn.Module):
    """Looks like a convolution and its norm to whoever does not notice that something was added between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x).add_(x))
        return self.twice(self.twice(y))


def test_only_true_neighbours_are_pairs() -> None:
    model, x = Sum().eval(), torch.randn(2, 2, 4, 4)
    assert pairs(model, (x,)) == {}
    assert error_of(trained_norms(model), (Folded(), PackedWeights()), (x,)) < 1e-5
    chain = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2))
    assert pairs(chain, (torch.randn(1, 2),)) == {chain[0]: chain[1], chain[1]: chain[2]}


# ----------------------------------------------------------------------------------------------------- the search


@dataclass(frozen=True)
class Pause(Candidate):
    """A setting that takes so long and answers with such an error."""

    milliseconds: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.milliseconds} ms, error {self.error}"


def search(groups: list[list[Choice]], original: float = 12.0) -> tuple[Search, object]:
    def build(chosen: Choice) -> Trial:
        last = chosen[-1]
        assert isinstance(last, Pause)
        if math.isnan(last.error):
            raise RuntimeError("no such kernel")
        return Trial(nn.Identity(), lambda: time.sleep(last.milliseconds / 1e3), last.error)

    subject = Subject(nn.Identity(), (torch.randn(1),), CPU)
    found = Search(
        *(subject, build, lambda: time.sleep(original / 1e3)), tolerance=1e-3, seconds=0.4, compile_seconds=0.0
    )
    return found, found._new(groups, "no key", None)


def test_the_fastest_true_one_wins() -> None:
    right, wrong, broken, slow = Pause(3), Pause(1, 0.1), Pause(1, float("nan")), Pause(90)
    _, found = search([[(Pause(8),), (wrong,)], [(right,), (broken,), (slow,)]])
    assert found.settings[-1] == str(right)
    assert found.speedup > 1.5
    verdicts = {row.settings[-1]: row.verdict for row in found.table if row.settings}
    assert verdicts[str(wrong)] == "other answers"
    assert verdicts[str(broken)] == "failed: no such kernel"
    assert verdicts[str(slow)] == "slower"
    assert verdicts[str(right)] == "chosen"


def test_nothing_slower_is_returned() -> None:
    searched, found = search([[(Pause(12),), (Pause(14),), (Pause(2, 1.0),)]])
    assert found.settings == ()
    assert found.model is searched.subject.model
    assert found.speedup == 1.0
    assert "the original is kept" in found.notes[0]


# ------------------------------------------------------------------------------------------------------- the whole


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(288, 4)
    )
    return trained_norms(model), torch.randn(2, 3, 8, 8)


def quick(model: nn.Module, x: object, tolerance: float = 1e-4, **more: object):
    return fg.tune(model, x, tolerance, seconds=0.3, compile_seconds=0.0, **more)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-2])
def test_a_tuned_network_stands_where_the_original_stood(small, tolerance: float) -> None:
    model, x = small
    before, threads, precision = copy.deepcopy(model.state_dict()), torch.get_num_threads(), "highest"
    modes = [module.training for module in model.modules()]
    others = [torch.randn(7, 3, 8, 8)]
    drawn = torch.get_rng_state()
    found = quick(model, x, tolerance, examples=others)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, precision)
    model.eval()
    y, expected = found.model(x), model(x).detach()
    assert y.dtype == torch.float32
    assert (y - expected).norm() <= tolerance * expected.norm()
    assert found.error <= tolerance
    assert found.speedup >= 1
    assert all(row.error is None or row.verdict == "other answers" or row.error <= tolerance for row in found.table)
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["settings"] == list(found.settings)
    assert "speed-up" in str(found)


def test_what_was_found_is_remembered(small, tmp_path: Path) -> None:
    model, x = small
    file = tmp_path / "tuned.json"
    first = quick(model, x, 3e-4, remember_in=file)
    assert not first.remembered
    stored = json.loads(file.read_text())
    assert [each["settings"] for each in stored["found"].values()] == [list(first.settings)]
    nn.init.normal_(model[5].weight)
    model.eval()
    again = quick(model, x, 3e-4, remember_in=file)
    assert again.remembered
    assert again.settings == first.settings
    assert (again.model(x) - model(x)).norm() <= 3e-4 * model(x).norm()
    assert not quick(model, torch.randn(3, 3, 8, 8), 3e-4, remember_in=file).remembered, "another shape"
    assert not quick(model, x, 4e-4, remember_in=file).remembered, "another tolerance"
    file.write_text('{"found": [1]}')
    with pytest.raises(fg.FieldguideError, match=r"tuned\.json does not hold"):
        quick(model, x, 5e-4, remember_in=file)
    with pytest.raises(fg.FieldguideError, match="cannot be written"):
        quick(model, x, 6e-4, remember_in=tmp_path / "nowhere" / "tuned.json")


class Unsteady(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(
    ("model", "example", "tolerance", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), torch.randn(2, 3), 1e-4, ["layer '1' (Linear)", "(2, 4)"]),
        (nn.Linear(3, 4), torch.ones(2, 3, dtype=torch.long), 1e-4, ["give example.to(torch.float32)"]),
        (nn.Embedding(3, 4), torch.randn(2, 3), 1e-4, ["give tokens"]),
        (nn.Linear(3, 4), torch.randn(2, 3), -1.0, ["tolerance = -1.0"]),
        (nn.Linear(3, 4), torch.randn(2, 3), float("nan"), ["tolerance = nan"]),
        (nn.Linear(3, 4, device="meta"), torch.randn(2, 3, device="meta"), 1e-4, ["meta device"]),
        (Unsteady(), torch.randn(2, 3), 1e-4, ["gives other answers to the same example"]),
    ],
)
def test_a_mistake_is_explained(model: nn.Module, example: object, tolerance: float, words: list[str]) -> None:
    with pytest.raises(fg.FieldguideError) as problem:
        quick(model, example, tolerance)
    assert not [word for word in words if word not in str(problem.value)], problem.value


def test_outputs_of_any_kind() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            y = self.layer(x)
            return {"scores": y, "best": y.argmax(1), "pair": (y.exp(), None)}

    found = quick(Both(), torch.randn(3, 4), 0.05)
    assert found.model(torch.randn(3, 4)).keys() == {"scores", "best", "pair"}


def test_differences() -> None:
    a = torch.tensor([3.0, 4.0])
    assert difference([a], [a]) == 0
    assert difference([a + torch.tensor([0.0, 0.5])], [a]) == pytest.approx(0.1)
    assert difference([a, torch.zeros(2)], [a, torch.zeros(2)]) == 0
    assert difference([torch.tensor([1, 2])], [torch.tensor([1, 3])]) == math.inf
    assert difference([a[:1]], [a]) == difference([], [a]) == difference([a.log()], [(-a).log()]) == math.inf
    masked = torch.tensor([3.0, -math.inf])
    assert difference([masked], [masked]) == 0
    x, tokens, keep = torch.randn(4, 5), torch.randint(9, (4, 5)), torch.rand(4, 5) > 0.5
    y, other, same = alike((x, tokens, keep))
    assert set(y.flatten().tolist()) <= set(x.flatten().tolist())
    assert (tokens.min() <= other.min(), other.max() <= tokens.max()) == (True, True)
    assert torch.equal(keep, same)


def test_a_compiler_is_not_waited_for_forever() -> None:
    with pytest.raises(OutOfTime), at_most(0.05):
        time.sleep(5)
    with at_most(0.05):
        pass
    time.sleep(0.1)  # no alarm is left behind


@pytest.mark.slow
def test_compiling(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), *[nn.Tanh() for _ in range(6)]), torch.randn(256, 64)
    found = fg.tune(model, x, seconds=0.5, compile_seconds=120.0)
    row = next(row for row in found.table if "compiled" in row.settings)
    assert row.error is not None
    assert row.error < 1e-5
    late = fg.tune(model, x, 2e-4, seconds=0.5, compile_seconds=1e-3)
    assert "not ready after 0.001 s" in [row.verdict for row in late.table]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA accelerator")
@pytest.mark.parametrize("name", ["resnet_mini", "gpt_mini"])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-2])
def test_on_an_accelerator(name: str, tolerance: float) -> None:
    torch.manual_seed(0)
    model, example, _ = sample_of(name, batch=8, device="cuda")
    found = fg.tune(model, example, tolerance, seconds=3.0, compile_seconds=120.0)
    with torch.no_grad():
        expected = model.eval()(*example)
    assert difference([found.model(*example)], [expected]) <= tolerance
    assert found.speedup >= 1
    assert torch.get_float32_matmul_precision() == "highest"
    failed = [row for row in found.table if row.verdict.startswith("failed")]
    assert not [row for row in failed if "attention" not in row.title], failed


def test_every_setting_has_a_name_of_its_own() -> None:
    settings = {setting for group in candidates() for choice in group for setting in choice}
    assert len({str(setting) for setting in settings}) == len(settings)
