"""Observation: what is measured of real trainings, and that nothing of them changes."""

import copy
import itertools
import json
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fieldguide.doctor.attending import Doctor
from fieldguide.doctor.examination import examine
from fieldguide.doctor.observe import Observer
from fieldguide.doctor.records import flaw
from fieldguide.trace import Record


def data(n: int = 320) -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=g)
    return TensorDataset(x, (x[:, :2].sum(1) > 0).long())


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def train(
    model: nn.Module, epochs: int = 3, *, workers: int = 0, mixed: bool = False, clip: float = 0.0
) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(epochs):
        model.train()
        for x, y in DataLoader(data(), 32, shuffle=True, num_workers=workers):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            for x, y in DataLoader(data(), 64):
                F.cross_entropy(model(x), y)
    return losses


def observed(run, **options) -> list[Record]:
    records: list[Record] = []
    with Observer(records.append, **options):
        run()
    assert not [record for record in records if record["kind"] == "trouble"]
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    return records


def of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


@pytest.mark.parametrize("options", [{}, {"workers": 2, "epochs": 1}, {"mixed": True}, {"clip": 0.1}])
def test_numbers_and_random_streams_are_the_same_with_and_without(options):
    torch.manual_seed(7)
    plain = train(network(dropout=0.3), **options)
    after = torch.rand(2)
    torch.manual_seed(7)
    with Doctor() as doctor:
        seen = train(network(dropout=0.3), **options)
    assert seen == plain
    assert torch.equal(after, torch.rand(2))
    assert doctor.diagnosis().step == len(plain)


def test_everything_is_put_back():
    before = torch.Tensor.backward, F.cross_entropy, DataLoader.__iter__, nn.utils.clip_grad_norm_
    observed(lambda: train(network(), 1))
    assert before == (torch.Tensor.backward, F.cross_entropy, DataLoader.__iter__, nn.utils.clip_grad_norm_)


def test_steps_have_the_losses_that_the_training_had():
    losses: list[float] = []
    records = observed(lambda: losses.extend(train(network())))
    steps = of(records, "step")
    assert [step["step"] for step in steps] == list(range(1, 31))
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=1e-6)


def test_the_set_up_is_known_before_the_first_step():
    records = observed(lambda: train(network(dropout=0.1), 1))
    setup = records[0]
    assert setup["kind"] == "setup"
    assert setup["step"] == 0
    assert setup["model"] == {
        "type": "Sequential", "parameters": 178, "trainable": 178, "training": True, "has_dropout": True,
        "has_batch_norm": False, "batch_statistics": False, "device": "cpu", "attention": [], "models": 1,
    }  # fmt: skip
    assert [layer["type"] for layer in setup["layers"]] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert {facts["gradient"] for facts in setup["tensors"].values()} == {"there"}
    assert setup["loss"]["name"] == "cross_entropy"
    assert setup["loss"]["output_shape"] == [32, 2]
    assert setup["loss"]["made_by"] == "Addmm"
    assert setup["loss"]["expected"] == pytest.approx(math.log(2))
    assert setup["optimizers"][0]["type"] == "Adam"
    assert setup["loader"]["batch_size"] == 32
    assert setup["tests"]["affine"]["ok"] is True
    assert setup["tests"]["batch_independence"]["ok"] is True


def test_samples_measure_what_they_say():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data().tensors
    weights: list[Tensor] = []
    norms: list[float] = []

    def run() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item())
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

    samples = of(observed(run), "sample")
    assert [sample["grad_norm"] for sample in samples] == pytest.approx(norms, rel=1e-5)
    ratios = [((b - a).norm() / a.norm()).item() for a, b in itertools.pairwise(weights)]
    assert [sample["update_ratio"] for sample in samples] == pytest.approx(ratios, rel=1e-4)
    signs = samples[0]["layers"]["3"]
    hidden = F.relu(F.linear(x, weights[0][:128].view(16, 8), weights[0][128:144]))
    assert signs["zeros"] == pytest.approx((hidden == 0).float().mean().item(), abs=1e-5)
    assert signs["dead"] == pytest.approx((hidden == 0).all(0).float().mean().item(), abs=1e-5)
    assert signs["input"] == pytest.approx(hidden.square().mean().sqrt().item(), rel=1e-4)


def test_copies_that_pre_flight_tests_leave_no_figures():
    def layers(preflight: bool) -> dict[str, dict[str, Any]]:
        model = network(dropout=0.5)
        return of(observed(lambda: train(model, 1), preflight=preflight), "sample")[0]["layers"]

    assert layers(preflight=True) == layers(preflight=False)


def test_saturated_units_are_seen_by_what_made_them():
    x = torch.linspace(-6, 6, 64)[:, None].repeat(1, 8)
    for squash, expected in ((torch.tanh, (1 - torch.tanh(x) ** 2 < 0.01)), (torch.relu, None)):
        first, second = nn.Identity(), nn.Linear(8, 1)
        model = nn.Sequential(nn.Linear(8, 8), first, second)
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(8))  # pyright: ignore
            model[0].bias.zero_()  # pyright: ignore
        first.forward = squash
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def run(model=model, optimizer=optimizer) -> None:
            model(x).square().mean().backward()
            optimizer.step()

        signs = of(observed(run, preflight=False), "sample")[0]["layers"]["2"]
        if expected is None:
            assert "saturated" not in signs
        else:
            assert signs["saturated"] == pytest.approx(expected.float().mean().item(), abs=1e-6)


def test_evaluations_are_seen_with_their_accuracy():
    records = observed(lambda: train(network(), 2))
    evals = of(records, "eval")
    assert len(evals) == 2
    assert evals[0]["samples"] == 320
    assert 0.5 < evals[1]["accuracy"] <= 1
    assert evals[0]["training"] is False
    assert set(evals[0]["recalls"]) == {"0", "1"}


def test_stale_gradients_and_clipping_are_seen():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = data().tensors

    def run(*, clear: bool) -> None:
        for _ in range(6):
            if clear:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()

    stale = of(observed(lambda: run(clear=False)), "sample")
    assert [sample["stale_gradient"] for sample in stale[1:]] == [True] * (len(stale) - 1)
    optimizer.zero_grad()
    clean = of(observed(lambda: run(clear=True)), "sample")
    assert not any(sample["stale_gradient"] for sample in clean)
    assert clean[-1]["clipped"] == 1.0
    assert clean[-1]["clip_limit"] == 1e-3


def test_accumulation_is_one_loss_a_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = data().tensors

    def run() -> None:
        for _ in range(5):
            optimizer.zero_grad()
            for part in range(4):
                (F.cross_entropy(model(x[part::4]), y[part::4]) / 4).backward()
            optimizer.step()

    records = observed(run)
    assert of(records, "step")[0]["loss"] == pytest.approx(F.cross_entropy(network()(x), y).item(), rel=1e-4)
    assert of(records, "sample")[-1]["backwards"] == 4
    assert not any(sample["stale_gradient"] for sample in of(records, "sample"))


def test_two_players_are_two_networks():
    first, second = nn.Linear(4, 8), nn.Linear(8, 1)
    optimizers = [torch.optim.Adam(model.parameters()) for model in (first, second)]

    def run() -> None:
        for _ in range(4):
            for optimizer in optimizers:
                optimizer.zero_grad()
                second(first(torch.randn(16, 4))).square().mean().backward()
                optimizer.step()

    setup = observed(run)[0]
    assert setup["model"]["models"] == 2
    assert all(facts["in_optimizer"] for facts in setup["tensors"].values())


def trainings(records: list[Record]) -> list[list[Record]]:
    """The records of each, without those that part them."""
    return [list(group) for part, group in itertools.groupby(records, lambda r: r["kind"] == "training") if not part]


def step_with(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    x, y = data()[torch.randint(320, (32,))]
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_trainings_one_after_another_are_told_apart():
    def folds() -> list[float]:
        return [loss for _ in range(3) for loss in train(network(), 2)]

    losses = folds()
    parts = trainings(observed(folds))
    assert len(parts) == 3
    told = [record["loss"] for part in parts for record in of(part, "step")]
    assert told == pytest.approx(losses)
    for part in parts:
        assert [record["step"] for record in of(part, "step")] == list(range(1, 21))
        (setup,) = (record for record in of(part, "setup") if "tensors" in record)
        assert list(setup["tensors"]) == ["0.weight", "0.bias", "3.weight", "3.bias"]
        assert setup["model"]["models"] == 1
        assert len(of(part, "eval")) == 2
        assert of(part, "sample")[-1]["layers"]


def test_a_later_optimizer_for_other_parameters_begins_another_training_and_one_for_the_same_does_not():
    model = network()

    def phases() -> None:
        for parameters in (model[3].parameters(), model[3].parameters(), model.parameters()):
            optimizer = torch.optim.SGD(parameters, lr=0.1)
            for _ in range(6):
                step_with(optimizer, model)

    parts = trainings(observed(phases))
    assert [len(of(part, "step")) for part in parts] == [12, 6]


def test_optimizers_that_take_turns_are_one_training_of_several():
    first, second = network(), network()

    def turns() -> None:
        optimizers = [torch.optim.SGD(first.parameters(), lr=0.1)]
        for _ in range(10):
            for optimizer, model in zip(optimizers, (first, second), strict=False):
                step_with(optimizer, model)
            if len(optimizers) == 1:
                optimizers.append(torch.optim.SGD(second.parameters(), lr=0.1))

    last = trainings(observed(turns))[-1]
    assert len(of(last, "step")) == 17  # all but the two before the second came
    assert [r["model"]["models"] for r in of(last, "setup") if "model" in r][-1] == 2


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_parameters_that_are_changed_by_hand_are_seen_to_move(rate):
    def descent() -> None:
        model = network()
        for _ in range(12):
            x, y = data()[torch.randint(320, (32,))]
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= rate * parameter.grad

    records = observed(descent)
    assert records[-1]["moved"] == (rate > 0)
    assert {found.slug for found in examine(records).findings} == (set() if rate else {"missing-step"})


def test_a_loss_by_hand_is_read_from_its_graph():
    model, x = nn.Linear(8, 1), torch.randn(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    cross_entropy = copy.copy(F.cross_entropy)  # bound before the observer came

    def broadcast() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            ((model(x) - torch.randn(64)) ** 2).mean().backward()
            optimizer.step()

    assert of(observed(broadcast), "setup")[0]["loss"]["broadcast"] == [[64, 1], [64, 64]]
    classifier = network()
    other = torch.optim.SGD(classifier.parameters(), lr=0.01)

    def bound() -> None:
        other.zero_grad()
        cross_entropy(classifier(x), torch.zeros(64, dtype=torch.long)).backward()
        other.step()

    assert of(observed(bound), "setup")[0]["loss"]["name"] == "nll_loss"


def test_nan_is_traced_to_a_layer_and_told_once():
    model = network()
    with Doctor(probes=False) as doctor:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x, y = data().tensors
        for step in range(12):
            if step == 4:
                model[3].weight.data[0, 0] = math.nan  # pyright: ignore
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    diagnosis = doctor.diagnosis()
    assert diagnosis.verdict == "critical"
    assert diagnosis.causes[0] == "non-finite-loss"
    assert "first layer whose output is not finite is 3" in diagnosis.findings[0].evidence


class Drawn(Dataset):
    """Adds noise from a generator that every worker gets a copy of."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.generator.standard_normal(8)).float(), index % 2


def test_workers_that_draw_alike_are_found():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run() -> None:
        for x, y in DataLoader(Drawn(), 16, num_workers=2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    assert of(observed(run), "setup")[0]["loader"]["generators"] == ["Drawn.generator"]


def test_losses_that_no_backward_follows_keep_no_graphs_alive():
    """As in an evaluation whose author forgot ``no_grad``."""
    model = network()

    def run() -> None:
        train(model, 1)
        answers = []
        for x, y in DataLoader(data(), 64):
            answer = model(x)
            F.cross_entropy(answer, y)
            answers.append(weakref.ref(answer))
            del answer
        assert sum(ref() is not None for ref in answers) <= 1

    observed(run)


def test_a_copied_network_does_not_copy_the_observer():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = data().tensors

    def run() -> None:
        for _ in range(8):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        twin = copy.deepcopy(model)
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))

    observed(run)


def test_intent_is_heard():
    model = network()
    for parameter in model[0].parameters():  # pyright: ignore
        parameter.requires_grad_(True)
    with Doctor(probes=False).expect(frozen=("0.*",)) as doctor:
        optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)  # pyright: ignore
        x, y = data().tensors
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert "parameter-not-in-optimizer" not in [finding.slug for finding in doctor.diagnosis().findings]


def test_a_step_with_a_closure_is_measured_after_its_first_evaluation():
    model, losses = network(), []
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    x, y = data().tensors

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss

    def run() -> None:
        for _ in range(4):
            losses.append(math.nan)
            optimizer.step(closure)

    records = observed(run)
    (setup,) = (record for record in of(records, "setup") if "tensors" in record)
    assert {facts["gradient"] for facts in setup["tensors"].values()} == {"there"}
    assert setup["tests"]["connected"]["ok"] is True
    firsts = [after for before, after in itertools.pairwise(losses) if math.isnan(before)]
    assert [record["loss"] for record in of(records, "step")] == pytest.approx(firsts, rel=1e-6)


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.inner(x) if scale is None else self.inner(x) * scale


@pytest.mark.parametrize("place", ["first", "keyword", "both"])
def test_the_first_batch_is_seen_once_however_it_is_given(place):
    model = Keyed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data().tensors

    def run() -> None:
        for part in range(3):
            a = x[32 * part : 32 * part + 32]
            call = {"first": lambda a: model(a), "keyword": lambda a: model(x=a)}
            output = call.get(place, lambda a: model(a, scale=torch.ones(())))(a)
            optimizer.zero_grad()
            F.cross_entropy(output, y[32 * part : 32 * part + 32]).backward()
            optimizer.step()

    with Observer((records := []).append) as observer:
        run()
    setup = of(records, "setup")
    assert setup[0]["inputs"]["samples"] == 32
    assert setup[-1]["inputs"]["samples"] == 64
    assert setup[-1]["inputs"]["duplicates"] == 0
    assert observer.recording is not None
    assert len(observer.recording.batches) == 3
    assert ("scale" in observer.recording.batches[0].kwargs) == (place == "both")


def test_records_are_as_their_schema_says():
    records = json.loads(json.dumps(observed(lambda: train(network(dropout=0.1), 2, clip=0.1))))
    assert [found for record in records if (found := flaw(record))] == []
