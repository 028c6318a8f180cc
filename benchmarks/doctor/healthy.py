"""Trainings that are well and look odd: what fools rules with absolute thresholds. The doctor has to be silent."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.doctor import programs
from benchmarks.doctor.programs import DEVELOPMENT, Encoder, Program, adam, digits, mlp, next_token, split

Build = Callable[[], Program]
HEALTHY: dict[str, Build] = dict(DEVELOPMENT)


def healthy(build: Build) -> Build:
    HEALTHY[build.__name__] = build
    return build


def sgd(lr: float, momentum: float = 0.0, decay: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)


def changed(build: Build, **fields: Any) -> Program:
    program = build()
    for name, value in fields.items():
        setattr(program, name, value)
    return program


@healthy
def counts_as_inputs() -> Program:
    (x, y), (v, w) = digits()
    raw = lambda x: ((x + 0.3) * 16).round().flatten(1)  # noqa: E731
    return Program("counts", (raw(x), y), (raw(v), w), mlp(64, 64, 10), F.cross_entropy, adam(1e-3), "classes", 1e-3)


@healthy
def one_hot_inputs() -> Program:
    g = torch.Generator().manual_seed(5)
    words = torch.randint(200, (2000, 6), generator=g)
    x = F.one_hot(words, 200).sum(1).float()
    return Program("one_hot", *split(x, (words < 60).sum(1).clamp(max=3)), mlp(200, 64, 4), F.cross_entropy, adam(5e-3), "classes", 5e-3)  # noqa: E501  # fmt: skip


@healthy
def linear_with_sgd_at_0_5() -> Program:
    return changed(programs.blobs, model=nn.Linear(16, 10), optimizer=sgd(0.5))


@healthy
def logistic_regression() -> Program:
    return changed(programs.tabular, model=nn.Linear(30, 1), optimizer=sgd(0.1))


@healthy
def sparse_activations() -> Program:
    program = programs.blobs()
    with torch.no_grad():
        for layer in program.model:
            if isinstance(layer, nn.Linear):
                layer.bias.sub_(0.2)
    program.model[-1].bias.data.zero_()
    return program


@healthy
def converged() -> Program:
    return changed(programs.blobs, epochs=60)


@healthy
def converged_network() -> Program:
    return changed(programs.cnn, epochs=30)


@healthy
def dropout_makes_training_worse() -> Program:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))
    return changed(programs.cnn, model=model, epochs=12)


@healthy
def noisy_validation() -> Program:
    program = programs.blobs()
    program.val = (program.val[0][:50], program.val[1][:50])
    return program


@healthy
def warm_up_and_restarts() -> Program:
    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        period = steps // 3
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda n: min(1.0, (n + 1) / 20) * 0.5 * (1 + math.cos(math.pi * (n % period) / period))
        )

    return changed(programs.cnn, schedule=schedule, epochs=12)


@healthy
def one_cycle() -> Program:
    cycle = lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)  # noqa: E731
    return changed(programs.cnn, schedule=cycle)


@healthy
def linear_to_zero() -> Program:
    decay = lambda optimizer, steps: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-6, steps)  # noqa: E731
    return changed(programs.causal, schedule=decay)


@healthy
def step_decay() -> Program:
    decay = lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, steps // 3, 0.1)  # noqa: E731
    return changed(programs.resnet, schedule=decay)


@healthy
def frozen_backbone() -> Program:
    """Features of a trained network, and a new head."""
    program = programs.cnn()
    programs.train(program)
    for parameter in program.model.parameters():
        parameter.requires_grad_(False)
    program.model[-1] = nn.Linear(512, 10)
    program.parameters = lambda model: model[-1].parameters()
    return program


@healthy
def low_rank_adaptation() -> Program:
    class Adapted(nn.Module):
        def __init__(self, linear: nn.Linear):
            super().__init__()
            self.linear = linear.requires_grad_(False)
            self.down = nn.Linear(linear.in_features, 4, bias=False)
            self.up = nn.Linear(4, linear.out_features, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + self.up(self.down(x))

    program = programs.blobs()
    programs.train(program)
    program.model = nn.Sequential(*(Adapted(m) if isinstance(m, nn.Linear) else m for m in program.model))
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


@healthy
def accumulation_of_4() -> Program:
    return changed(programs.blobs, accumulation=4, batch_size=8)


@healthy
def negative_loss() -> Program:
    """A Gaussian likelihood with a small variance: below 0."""

    def likelihood(output: Tensor, y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(output[:, :1], y, output[:, 1:].exp())

    x, _ = programs.regression().train
    data = split(x, 0.1 * torch.sin(x[:, :1] * 3))
    return Program("gaussian", *data, mlp(10, 64, 64, 2), likelihood, adam(1e-3), "regression", 1e-3, epochs=8)


@healthy
def noisy_rewards() -> Program:
    """REINFORCE on a contextual bandit: the surrogate loss is noise around a slow trend."""

    def surrogate(output: Tensor, y: Tensor) -> Tensor:
        choice = torch.distributions.Categorical(logits=output)
        action = choice.sample()
        reward = (action == y).float() + 0.3 * torch.randn(len(y))
        return -((reward - 0.3) * choice.log_prob(action)).mean()

    return changed(programs.blobs, loss=surrogate, epochs=20)


@healthy
def label_smoothing() -> Program:
    return changed(programs.cnn, loss=nn.CrossEntropyLoss(label_smoothing=0.2))


@healthy
def plateau_first() -> Program:
    """Parity of 3 of 12 bits: nothing is learned for a while, and then everything."""
    g = torch.Generator().manual_seed(6)
    x = torch.randint(2, (3000, 12), generator=g).float() * 2 - 1
    y = (x[:, :3].prod(1) > 0).long()
    return Program("parity", *split(x, y), mlp(12, 128, 2), F.cross_entropy, adam(3e-3), "classes", 3e-3, epochs=15)


@healthy
def batch_of_2() -> Program:
    return changed(programs.blobs, batch_size=2, epochs=2, optimizer=adam(1e-3))


@healthy
def batch_of_16_with_norm() -> Program:
    return changed(programs.resnet, batch_size=16, optimizer=sgd(0.02, 0.9))


@healthy
def full_batch() -> Program:
    return changed(programs.tabular, batch_size=455, epochs=200)


@healthy
def large_embedding() -> Program:
    g = torch.Generator().manual_seed(7)
    x = torch.randint(5000, (20_000, 8), generator=g)
    model = nn.Sequential(nn.EmbeddingBag(5000, 16), nn.Linear(16, 2))
    y = ((x < 2500).sum(1) > 4).long()
    return Program("embedding", *split(x, y), model, F.cross_entropy, adam(1e-2), "classes", 1e-2, epochs=3)


@healthy
def tied_weights() -> Program:
    program = programs.causal()
    model: Any = program.model
    model.head.weight = model.tokens.weight
    nn.init.normal_(model.tokens.weight, std=0.1)
    return program


@healthy
def catapult() -> Program:
    """A rate at the edge: the loss jumps first and settles then."""
    return changed(programs.blobs, optimizer=sgd(1.0), epochs=10)


@healthy
def bfloat16() -> Program:
    program = programs.cnn()
    plain = program.model

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x)

    program.model, program.loss = Mixed(), lambda output, y: F.cross_entropy(output.float(), y)
    return program


@healthy
def adamw_with_decay() -> Program:
    return changed(programs.encoder, optimizer=lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.1))


@healthy
def rmsprop() -> Program:
    return changed(programs.cnn, optimizer=lambda p: torch.optim.RMSprop(p, lr=1e-3))


@healthy
def clipped_at_1() -> Program:
    return changed(programs.gru, clip=1.0)


@healthy
def fine_tuning_rate() -> Program:
    program = programs.cnn()
    programs.train(program)
    return changed(lambda: program, optimizer=adam(1e-4), epochs=5)


@healthy
def gelu_and_layer_norm() -> Program:
    model = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    return changed(programs.blobs, model=model)


@healthy
def tanh_network() -> Program:
    return changed(programs.regression, model=mlp(10, 64, 64, 1, activation=nn.Tanh))


@healthy
def huber() -> Program:
    return changed(programs.regression, loss=F.huber_loss)


@healthy
def targets_in_tens() -> Program:
    program = programs.regression()
    program.train, program.val = ((x, 5 * y + 14) for x, y in (program.train, program.val))
    return changed(lambda: program, epochs=30)


@healthy
def mild_imbalance() -> Program:
    program = programs.blobs()
    keep = (program.train[1] > 0) | (torch.rand(len(program.train[1])) < 0.2)
    program.train = (program.train[0][keep], program.train[1][keep])
    return program


@healthy
def log_softmax_and_nll() -> Program:
    model = nn.Sequential(*programs.cnn().model, nn.LogSoftmax(-1))
    return changed(programs.cnn, model=model, loss=F.nll_loss)


@healthy
def sigmoid_and_bce() -> Program:
    model = nn.Sequential(*programs.tabular().model, nn.Sigmoid())
    return changed(programs.tabular, model=model, loss=F.binary_cross_entropy, kind="tokens")


@healthy
def multi_label() -> Program:
    (x, y), (v, w) = digits()
    bits = lambda y: torch.stack([(y >> i) & 1 for i in range(4)], 1).float()  # noqa: E731
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return Program("bits", (x, bits(y)), (v, bits(w)), model, F.binary_cross_entropy_with_logits, adam(2e-3), "tokens", 2e-3)  # noqa: E501  # fmt: skip


@healthy
def lbfgs() -> Program:
    def loop(p: Program) -> float:
        optimizer = torch.optim.LBFGS(p.model.parameters(), lr=0.5, max_iter=5)
        x, y = p.train

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = p.loss(p.model(x), y)
            loss.backward()
            return loss

        for _ in range(40):
            optimizer.step(closure)
        return programs.validate(p, DataLoader(TensorDataset(*p.val), 256))

    return changed(programs.regression, loop=loop)


@healthy
def wasserstein() -> Program:
    def loop(p: Program) -> float:
        model: Any = p.model
        first = torch.optim.RMSprop(model.generator.parameters(), lr=1e-3)
        second = torch.optim.RMSprop(model.discriminator.parameters(), lr=1e-3)
        for _ in range(25):
            for number, (x, _) in enumerate(DataLoader(TensorDataset(*p.train), p.batch_size, shuffle=True)):
                second.zero_grad()
                fake = model.generator(torch.randn(len(x), 4))
                (model.discriminator(fake.detach()).mean() - model.discriminator(x).mean()).backward()
                second.step()
                with torch.no_grad():
                    for parameter in model.discriminator.parameters():
                        parameter.clamp_(-0.1, 0.1)
                if number % 3 == 0:
                    first.zero_grad()
                    (-model.discriminator(model.generator(torch.randn(len(x), 4))).mean()).backward()
                    first.step()
        return 0.0

    return changed(programs.gan, loop=loop)


@healthy
def contrastive() -> Program:
    (x, _), (v, _) = digits()
    x, v = x.flatten(1), v.flatten(1)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        a, b = F.normalize(output, dim=1), F.normalize(program.model(target + 0.1 * torch.randn_like(target)), dim=1)
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    program = Program("contrastive", (x, x), (v, v), mlp(64, 64, 32), loss, adam(2e-3), "tokens", 2e-3)
    return program


@healthy
def long_documents() -> Program:
    """A language model with padding that the loss leaves out."""
    program = programs.causal()
    lengths = torch.randint(8, 33, (len(program.train[0]),))
    outside = torch.arange(32) >= lengths[:, None]
    program.train = (program.train[0].masked_fill(outside, 0), program.train[1].masked_fill(outside, -100))
    return changed(lambda: program, loss=lambda o, y: F.cross_entropy(o.reshape(-1, 128), y.reshape(-1)))


@healthy
def small_transformer_with_warm_up() -> Program:
    warm = lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / 60, (60 / (n + 1)) ** 0.5))  # noqa: E501, E731  # fmt: skip
    data = programs.causal()
    model = Encoder(128, 32, 128, causal=True, width=48)
    return Program("warm", data.train, data.val, model, next_token, adam(6e-3), "tokens", 6e-3, schedule=warm)
