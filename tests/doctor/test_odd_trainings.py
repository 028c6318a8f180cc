"""Real trainings that are well and look odd to rules that need no gate: nothing may be said of them but advice."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldguide.doctor.examination import examine
from fieldguide.doctor.observe import Observer
from fieldguide.trace import Record

ODD: dict[str, Callable[[], None]] = {}
Batch = tuple[Tensor, ...]


def odd(run: Callable[[], None]) -> Callable[[], None]:
    ODD[run.__name__] = run
    return run


def fit(model: nn.Module, loss: Callable[[Tensor, Batch], Tensor], *data: Tensor, lr: float = 3e-3, steps: int = 60):
    """Adam on random batches of 32."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (32,))
        batch = tuple(part[rows] for part in data)
        optimizer.zero_grad()
        loss(model(batch[0]), batch[1:]).backward()
        optimizer.step()


def points(n: int = 600, width: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, width)
    return x, (x[:, :2].sum(1) > 0).long()


@odd
def pixels_left_out_under_a_number_of_their_own():
    x = torch.randn(300, 1, 8, 8)
    y = (x[:, 0] > 0).long()
    y[torch.rand(y.shape) < 0.1] = 255
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    fit(net, lambda out, rest: F.cross_entropy(out, rest[0], ignore_index=255), x, y, lr=1e-2, steps=150)


@odd
def samples_left_out_under_minus_one():
    x, y = points()
    y[::10] = -1
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    fit(net, lambda out, rest: F.cross_entropy(out, rest[0], ignore_index=-1), x, y, lr=1e-2, steps=150)


@odd
def probabilities_kept_from_0_and_1():
    x, y = points()
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    fit(
        net,
        lambda out, rest: F.binary_cross_entropy(out.clamp(1e-7, 1 - 1e-7), rest[0]),
        x,
        y.float()[:, None],
        lr=1e-2,
        steps=150,
    )


@odd
def a_pooler_that_nobody_asks():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner = nn.Embedding(500, 32), nn.Linear(32, 64)
            self.head, self.pooler = nn.Linear(64, 2), nn.Linear(32, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(F.relu(self.inner(self.words(tokens).mean(1))))

    tokens = torch.randint(500, (600, 8))
    fit(Encoder(), lambda out, rest: F.cross_entropy(out, rest[0]), tokens, (tokens < 250).sum(1).gt(4).long(), lr=1e-2)


@odd
def principal_components_by_descent():
    x = torch.randn(600, 4) @ torch.randn(4, 32)
    fit(nn.Sequential(nn.Linear(32, 6), nn.Linear(6, 32)), lambda out, rest: F.mse_loss(out, rest[0]), x, x, lr=1e-2)


@odd
def a_low_rank_pair_beside_a_frozen_layer():
    class Adapted(nn.Module):
        def __init__(self, plain: nn.Linear):
            super().__init__()
            self.plain = plain.requires_grad_(False)
            self.down, self.up = nn.Linear(16, 3, bias=False), nn.Linear(3, 10, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(x) + self.up(self.down(x))

    x = torch.randn(600, 16)
    y = (x @ torch.randn(16, 10)).argmax(1)
    plain = nn.Linear(16, 10)
    fit(plain, lambda out, rest: F.cross_entropy(out, rest[0]), x, y, lr=1e-2)
    fit(Adapted(plain), lambda out, rest: F.cross_entropy(out, rest[0]), x, y, lr=1e-2)


@odd
def counts_with_a_few_below_the_range():
    x, _ = points()
    y = F.relu(2 * x[:, :1]) + 1
    y[:3] = -0.5
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.ReLU())
    nn.init.ones_(net[2].bias)
    fit(net, lambda out, rest: F.mse_loss(out, rest[0]), x, y)


@odd
def padded_sequences_with_a_tag_for_every_word():
    """Tags of mostly padding look like inputs of mostly padding, and are not the next words."""
    tokens = torch.randint(1, 50, (600, 12))
    tokens[:, 1:] = 0
    tags = (tokens > 25).long()

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(50, 16)
            self.cell, self.head = nn.GRU(16, 16, batch_first=True, bidirectional=True), nn.Linear(32, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.cell(self.words(tokens))[0])

    fit(Tagger(), lambda out, rest: F.cross_entropy(out.flatten(0, 1), rest[0].flatten()), tokens, tags, lr=1e-2)


@odd
def attention_over_padding_that_is_cleared_afterwards():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = (x == 0).all(-1)
            out = self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
            return self.head(x.sum(1) + torch.nan_to_num(out.detach()).mean(1))

    x = torch.randn(600, 4, 8)
    y = (x[..., 0].sum(1) > 0).long()
    x[::9] = 0
    net = Pooled()
    net.attention.requires_grad_(False)
    fit(net, lambda out, rest: F.cross_entropy(out, rest[0]), x, y, lr=1e-2)


@odd
def every_quantile_with_every_target():
    """Quantile regression of distributional reinforcement learning pairs all predictions with all targets."""
    x, _ = points()
    y = x[:, :1] + 0.1 * torch.randn(len(x), 5)

    def loss(out: Tensor, rest: Batch) -> Tensor:
        return F.smooth_l1_loss(out[:, :, None].expand(-1, -1, 5), rest[0][:, None, :].expand(-1, 4, -1))

    fit(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), loss, x, y)


@odd
def one_target_for_all():
    """A number that broadcasts to every prediction, as in a least-squares critic."""
    x, _ = points()
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    fit(net, lambda out, rest: F.mse_loss(out, torch.tensor(1.0)), x)


@odd
def a_policy_that_weighs_its_likelihood():
    """Advantages make single terms of a cross entropy negative."""
    x, y = points()

    def loss(out: Tensor, rest: Batch) -> Tensor:
        action = torch.distributions.Categorical(logits=out).sample()
        reward = (action == rest[0]).float() - 0.2
        return (F.cross_entropy(out, action, reduction="none") * reward).mean()

    fit(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), loss, x, y)


@odd
def a_game_with_soft_labels():
    """Labels of 0.7 to 1.2 for what is real: an old remedy for a discriminator that is too sure."""
    maker, judge = (nn.Sequential(nn.Linear(a, 16), nn.ReLU(), nn.Linear(16, b)) for a, b in ((4, 2), (2, 1)))
    first, second = (torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.99)) for net in (maker, judge))
    loss = F.binary_cross_entropy_with_logits
    for _ in range(60):
        made = maker(torch.randn(32, 4))
        second.zero_grad()
        real = torch.randn(32, 2) + 2
        (loss(judge(real), 0.7 + 0.5 * torch.rand(32, 1)) + loss(judge(made.detach()), torch.zeros(32, 1))).backward()
        second.step()
        first.zero_grad()
        loss(judge(made), torch.ones(32, 1)).backward()
        first.step()


@odd
def a_graph_whose_nodes_are_mixed_on_purpose():
    edges = (torch.rand(60, 60) < 0.1).float()
    mix = (edges + edges.T).clamp(max=1) + torch.eye(60)
    mix = mix / mix.sum(1, keepdim=True)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mix", mix)
            self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(F.relu(self.mix @ self.inner(x)))

    x, _ = points(60)
    net, y = Graph(), (mix @ x)[:, 0].gt(0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


@odd
def a_head_that_ranks_a_batch_against_itself():
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.left(x), dim=1) @ F.normalize(self.right(x), dim=1).T / 0.1

    x, _ = points()
    fit(Pairs(), lambda out, rest: F.cross_entropy(out, torch.arange(len(out))), x, lr=1e-2)


@odd
def layers_that_are_left_out_at_random():
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 2)
            self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            for block in self.blocks:
                if not self.training or torch.rand(()) < 0.9:
                    x = x + F.relu(block(x))
            return self.head(x)

    fit(Dropped(), lambda out, rest: F.cross_entropy(out, rest[0]), *points())


@odd
def time_first_and_batch_second():
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(4, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    net = Sequence()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        x = torch.randn(12, 32, 4)
        optimizer.zero_grad()
        F.mse_loss(net(x), x.cumsum(0)[..., :1] / 3).backward()
        optimizer.step()


@odd
def a_head_first_and_then_everything():
    x, y = points()
    body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
    fit(nn.Sequential(body, nn.Linear(32, 8)), lambda out, rest: F.mse_loss(out, rest[0]), x, x, lr=1e-2)
    net = nn.Sequential(body.requires_grad_(False), nn.Linear(32, 2))
    fit(net, lambda out, rest: F.cross_entropy(out, rest[0]), x, y, lr=1e-2)
    body.requires_grad_(True)
    fit(net, lambda out, rest: F.cross_entropy(out, rest[0]), x, y, lr=1e-4)


@odd
def a_network_for_every_fold():
    x, y = points()
    for fold in range(3):
        rows = torch.arange(len(x)) % 3 != fold
        net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        fit(net, lambda out, rest: F.cross_entropy(out, rest[0]), x[rows], y[rows], lr=1e-2)


@odd
def a_sum_over_the_number_of_samples():
    x, _ = points()
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    fit(net, lambda out, rest: F.mse_loss(out, rest[0], reduction="sum") / len(out), x, x, lr=1e-2)


@odd
def newton_that_has_arrived():
    x = torch.linspace(-2, 2, 100)[:, None]
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), x.sin())
        loss.backward()
        return loss

    for _ in range(60):
        optimizer.step(closure)


@odd
def an_optimizer_for_each_layer():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizers = [torch.optim.Adam(net[0].parameters(), lr=1e-2), torch.optim.SGD(net[2].parameters(), lr=0.1)]
    x, y = points()
    for _ in range(60):
        rows = torch.randint(len(x), (32,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        for optimizer in optimizers:
            optimizer.step()


@odd
def a_value_beside_a_policy():
    policy, value = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=1e-2)
    right = torch.randn(4, 2)
    for _ in range(100):
        state = torch.randn(64, 4)
        choice = torch.distributions.Categorical(logits=policy(state))
        action = choice.sample()
        reward = ((state @ right).argmax(1) == action).float()
        gain = reward - value(state)[:, 0].detach()
        loss = -(choice.log_prob(action) * gain).mean() + 0.1 * F.mse_loss(value(state)[:, 0], reward)
        optimizer.zero_grad()
        (loss - 0.05 * choice.entropy().mean()).backward()
        optimizer.step()


def recorded(run: Callable[[], None]) -> list[Record]:
    records: list[Record] = []
    torch.manual_seed(0)
    with Observer(records.append):
        run()
    assert [record for record in records if record["kind"] == "sample"]
    assert not [record for record in records if record["kind"] == "trouble"]
    return records


@pytest.mark.parametrize("name", ODD)
def test_nothing_is_said_of_a_training_that_only_looks_odd(name):
    findings = examine(recorded(ODD[name])).findings
    alarms = [found for found in findings if found.severity != "info" and found.slug != "stopped-too-early"]  # 60 steps
    assert not alarms
