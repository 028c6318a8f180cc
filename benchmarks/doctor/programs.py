"""The programs that the doctor is tried on: small trainings in plain PyTorch, each with parts that a fault can spoil.

Twelve are for development and four, of other families, are never looked at while rules are made.
"""

import itertools
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

Optimizer = torch.optim.Optimizer


@dataclass
class Program:
    """Everything that a training consists of; ``train`` reads it once."""

    name: str
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[Any], Optimizer]
    kind: str
    """``classes``, ``binary``, ``regression``, ``tokens``, ``reconstruction``, ``gan``."""
    lr: float
    batch_size: int = 32
    epochs: int = 10
    schedule: Callable[[Optimizer, int], Any] | None = None
    shuffle: bool = True
    workers: int = 0
    clip: float = 0.0
    accumulation: int = 1
    parameters: Callable[[nn.Module], Any] = lambda model: model.parameters()
    habits: set[str] = field(default_factory=set)
    """What the loop does differently: ``no zero_grad``, ``no step``, ``no eval()``, …"""
    dataset: Callable[[Dataset], Dataset] = lambda data: data
    """What stands between the training tensors and the loader."""
    loop: "Callable[[Program], float] | None" = None
    """A loop of its own."""

    @property
    def classes(self) -> int:
        return int(self.train[1].max()) + 1


def train(program: Program) -> float:
    """Runs the program as a script would, and returns its validation score: accuracy, or minus the loss."""
    p, does = program, program.habits
    if p.loop:
        return p.loop(p)
    if "memory nearly full" in does:
        with nearly_full():
            return train(replace(p, habits=does - {"memory nearly full"}))
    optimizer = p.optimizer(p.parameters(p.model))
    steps = p.epochs * math.ceil(len(p.train[0]) / p.batch_size)
    schedule = p.schedule(optimizer, steps) if p.schedule else None
    loader = DataLoader(p.dataset(TensorDataset(*p.train)), p.batch_size, shuffle=p.shuffle, num_workers=p.workers)
    held_out = DataLoader(TensorDataset(*p.val), 256)
    half = "16 bits" in does
    scaler = torch.amp.GradScaler("cpu", enabled=half, init_scale=2.0**24, growth_interval=1)  # grows at every step
    kept: list[Any] = []
    score = math.nan
    for _ in range(p.epochs):
        if "train() never restored" not in does:
            p.model.train()
        for number, (x, y) in enumerate(loader):
            if "no zero_grad" not in does and number % p.accumulation == 0:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = p.loss(p.model(x), y) / p.accumulation
            for habit in _DURING:
                if habit in does:
                    loss = _DURING[habit](loss, kept)
            if "no backward" not in does:
                scaler.scale(loss).backward()
            if p.clip:
                nn.utils.clip_grad_norm_(p.model.parameters(), p.clip)
            if "no step" not in does and (number + 1) % p.accumulation == 0:
                scaler.step(optimizer)
                scaler.update()
            if schedule:
                schedule.step()
        if "no eval()" not in does:
            p.model.eval()
        score = validate(p, held_out)
    return score


def validate(p: Program, loader: DataLoader) -> float:
    total, right, loss, count = 0.0, 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            output = p.model(x)
            if p.kind == "classes":
                right += (output.argmax(1) == y).sum().item()
            elif p.kind == "binary":
                right += ((output.squeeze(-1) > 0).float() == y.squeeze(-1)).sum().item()
            loss += p.loss(output, y).item() * len(x)
            count += len(x)
    total = right if p.kind in {"classes", "binary"} else -loss
    return total / count


@contextmanager
def nearly_full() -> Iterator[None]:
    """This process may have 2 GiB of data more, and has taken all but a twentieth of the whole, for a while."""
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limit = used + (2 << 30)
    taken = torch.empty(int(0.95 * limit) - used, dtype=torch.uint8)  # is not written to, and costs no real memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
        del taken


def _keep(loss: Tensor, kept: list) -> Tensor:
    kept.append((loss, torch.randn(400_000)))  # a loss that holds its graph; the padding stands for a larger network
    return loss


_DURING: dict[str, Callable[[Tensor, list], Tensor]] = {
    "sign flipped": lambda loss, kept: -loss,
    "detached": lambda loss, kept: torch.tensor(loss.item(), requires_grad=True),
    "losses kept": _keep,
}


# ------------------------------------------------------------------------------------------------- the programs


def split(x: Tensor, y: Tensor, share: float = 0.8) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = int(share * len(x))
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def adam(lr: float) -> Callable[[Any], Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])


def blobs() -> Program:
    x, y = datasets.make_blobs(1500, 16, centers=10, cluster_std=4.0, random_state=0)[:2]
    x = (x - x.mean(0)) / x.std(0)
    data = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    return Program("mlp_blobs", *data, mlp(16, 64, 64, 10), F.cross_entropy, adam(3e-3), "classes", 3e-3)


def tabular() -> Program:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    data = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None])
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)  # noqa: E731
    loss = F.binary_cross_entropy_with_logits
    return Program("mlp_tabular", *data, mlp(30, 32, 32, 1), loss, sgd, "binary", 0.05, epochs=10)


def regression() -> Program:
    x, y = datasets.make_friedman1(1200, 10, noise=1.0, random_state=0)
    y = (y - y.mean()) / y.std()
    data = split(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None])
    return Program("mlp_regression", *data, mlp(10, 64, 64, 1), F.mse_loss, adam(3e-3), "regression", 3e-3, epochs=12)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x, y = datasets.load_digits(return_X_y=True)
    return split(torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3, torch.tensor(y))


def cnn() -> Program:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10),
    )  # fmt: skip
    return Program("cnn_digits", *digits(), model, F.cross_entropy, adam(1e-3), "classes", 1e-3, epochs=8)


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def resnet() -> Program:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Residual(16), Residual(16),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)  # noqa: E731
    cosine = lambda optimizer, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)  # noqa: E731
    return Program("resnet", *digits(), model, F.cross_entropy, sgd, "classes", 0.05, epochs=7, schedule=cosine)


class Recurrent(nn.Module):
    """A recurrent network read at its last step."""

    def __init__(self, cell: type[nn.RNNBase], inputs: int, width: int, outputs: int):
        super().__init__()
        self.cell, self.head = cell(inputs, width, batch_first=True), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def waves(count: int = 1200, length: int = 40) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    y = torch.randint(4, (count,), generator=g)
    t = torch.arange(length) / length
    phase = 2 * math.pi * torch.rand(count, 1, generator=g)
    x = torch.sin(2 * math.pi * (2 + 1.5 * y[:, None]) * t + phase) + 0.3 * torch.randn(count, length, generator=g)
    return x[..., None], y


def gru() -> Program:
    model = Recurrent(nn.GRU, 1, 32, 4)
    return Program("gru_waves", *split(*waves()), model, F.cross_entropy, adam(5e-3), "classes", 5e-3, epochs=12)


def lstm() -> Program:
    """The adding problem of 20 steps: the sum of two marked numbers."""
    g = torch.Generator().manual_seed(2)
    values = torch.rand(2000, 20, generator=g)
    marks = torch.zeros(2000, 20)
    marks.scatter_(1, torch.stack([torch.randint(10, (2000,), generator=g), torch.randint(10, 20, (2000,), generator=g)], 1), 1)  # noqa: E501  # fmt: skip
    data = split(torch.stack([values, marks], -1), (values * marks).sum(1, keepdim=True))
    model = Recurrent(nn.LSTM, 2, 32, 1)
    return Program("lstm_adding", *data, model, F.mse_loss, adam(1e-2), "regression", 1e-2, epochs=12)


class Encoder(nn.Module):
    """A pre-norm transformer over tokens; ``causal`` makes it a language model."""

    def __init__(self, vocabulary: int, length: int, outputs: int, *, causal: bool, width: int = 32, layers: int = 2):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head, self.causal = nn.LayerNorm(width), nn.Linear(width, outputs), causal

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.tokens(tokens) + self.positions(torch.arange(n))
        mask = torch.full((n, n), -math.inf).triu(1) if self.causal else None
        x = self.norm(self.layers(x, mask=mask))
        return self.head(x if self.causal else x.mean(1))


def encoder() -> Program:
    """Which of four marks occurs most often among 24 tokens."""
    g = torch.Generator().manual_seed(3)
    x = torch.randint(4, 16, (2000, 24), generator=g)
    y = torch.randint(4, (2000,), generator=g)
    for row, label in enumerate(y.tolist()):
        places = torch.randperm(24, generator=g)
        x[row, places[:5]] = label
        x[row, places[5:9]] = torch.randint(4, (4,), generator=g)
    model = Encoder(16, 24, 4, causal=False)
    return Program("encoder", *split(x, y), model, F.cross_entropy, adam(2e-3), "classes", 2e-3, epochs=8)


def next_token(output: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1))


def causal() -> Program:
    text = Path(datasets.__file__).with_name("_base.py").read_text()[:60_000]
    codes = torch.tensor([min(ord(letter), 127) for letter in text])
    rows = codes[: len(codes) // 33 * 33].view(-1, 33)
    model = Encoder(128, 32, 128, causal=True, width=48)
    data = split(rows[:, :-1], rows[:, 1:])
    return Program("causal_lm", *data, model, next_token, adam(3e-3), "tokens", 3e-3, epochs=8)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 64, 16), mlp(8, 64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp() if self.training else mean
        return self.decode(z), mean, log_var


def elbo(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    reconstruction, mean, log_var = output
    divergence = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
    return F.mse_loss(reconstruction, target) + 0.001 * divergence


def vae() -> Program:
    (x, _), (v, _) = digits()
    x, v = x.flatten(1), v.flatten(1)
    return Program("vae", (x, x), (v, v), VAE(), elbo, adam(2e-3), "reconstruction", 2e-3, epochs=10)


class GCN(nn.Module):
    def __init__(self, adjacency: Tensor, features: Tensor, classes: int):
        super().__init__()
        degree = (adjacency + torch.eye(len(adjacency))).sum(1)
        self.register_buffer("mix", (adjacency + torch.eye(len(adjacency))) / (degree[:, None] * degree).sqrt())
        self.register_buffer("features", features)
        self.inner, self.outer = nn.Linear(features.shape[1], 32), nn.Linear(32, classes)

    def forward(self, nodes: Tensor) -> Tensor:
        x = F.relu(self.mix @ self.inner(self.features))
        return (self.mix @ self.outer(x))[nodes]


def gcn() -> Program:
    g = torch.Generator().manual_seed(4)
    y = torch.randint(4, (400,), generator=g)
    same = y[:, None] == y
    edges = (torch.rand(400, 400, generator=g) < torch.where(same, 0.06, 0.01)).triu(1)
    features = torch.randn(400, 16, generator=g) + 0.8 * F.one_hot(y, 16)
    data = split(torch.arange(400), y, 0.5)
    model = GCN((edges | edges.T).float(), features, 4)
    return Program("gcn", *data, model, F.cross_entropy, adam(1e-2), "classes", 1e-2, batch_size=50, epochs=60)


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = mlp(4, 32, 32, 2), mlp(2, 32, 32, 1)


def gan() -> Program:
    angles = torch.arange(1000) * 2 * math.pi / 8
    x = torch.stack([angles.cos(), angles.sin()], 1) + 0.05 * torch.randn(1000, 2)
    steady = lambda parameters: torch.optim.Adam(parameters, lr=3e-3, betas=(0.5, 0.99))  # noqa: E731
    parts = (x, x), (x, x), GAN(), F.mse_loss, steady
    return Program("gan", *parts, "gan", 3e-3, batch_size=64, epochs=60, loop=train_gan)


def train_gan(p: Program) -> float:
    """Score: minus the distance of generated points from the ring."""
    model: Any = p.model
    loss = F.binary_cross_entropy_with_logits
    first, second = p.optimizer(model.generator.parameters()), p.optimizer(model.discriminator.parameters())
    loader = DataLoader(p.dataset(TensorDataset(*p.train)), p.batch_size, shuffle=True)
    for _ in range(p.epochs):
        for x, _ in loader:
            fake = model.generator(torch.randn(len(x), 4))
            if "no zero_grad" not in p.habits:
                second.zero_grad()
            real, made = model.discriminator(x), model.discriminator(fake.detach())
            (loss(real, torch.ones_like(real)) + loss(made, torch.zeros_like(made))).backward()
            if "no step" not in p.habits:
                second.step()
            if "no zero_grad" not in p.habits:
                first.zero_grad()
            made = model.discriminator(fake)
            loss(made, torch.ones_like(made)).backward()
            if "no step" not in p.habits:
                first.step()
    with torch.no_grad():
        points = model.generator(torch.randn(2000, 4))
    spread = min(1.0, points.std(0).min().item() / 0.7)
    return -((points.norm(dim=1) - 1).abs().mean().item() + (1 - spread))


# --------------------------------------------------------------------------------------- families held out


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(1, 32, 2, 2), nn.Parameter(0.02 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.patches(x).flatten(2).mT + self.positions).mean(1))


def vit() -> Program:
    return Program("vit", *digits(), ViT(), F.cross_entropy, adam(2e-3), "classes", 2e-3, epochs=10)


class Denoiser(nn.Module):
    """Predicts the noise in digits from the noisy image and its level."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(65, 128, 128, 64, activation=nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = torch.rand(len(x), 1) if self.training else torch.linspace(0, 1, len(x))[:, None]
        noise = (
            torch.randn_like(x) if self.training else torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        )
        mixed = (1 - level).sqrt() * x + level.sqrt() * noise
        return self.net(torch.cat([mixed, level], 1)), noise


def diffusion() -> Program:
    (x, _), (v, _) = digits()
    x, v = 3 * x.flatten(1), 3 * v.flatten(1)
    loss = lambda output, target: F.mse_loss(*output)  # noqa: E731
    return Program("diffusion", (x, x), (v, v), Denoiser(), loss, adam(2e-3), "reconstruction", 2e-3, epochs=12)


class StateSpace(nn.Module):
    """A diagonal linear recurrence with gates, computed as a convolution."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.inner, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.decay, self.head = nn.Parameter(torch.linspace(0, 4, width)), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        powers = torch.sigmoid(self.decay) ** torch.arange(n - 1, -1, -1)[:, None]
        state = torch.tanh(self.inner(x)) * torch.sigmoid(self.gate(x))
        return self.head((state * powers * (1 - torch.sigmoid(self.decay))).sum(1))


def ssm() -> Program:
    x, y = waves()
    x = x.unfold(1, 8, 1).flatten(2)
    return Program("ssm", *split(x, y), StateSpace(8, 48, 4), F.cross_entropy, adam(1e-2), "classes", 1e-2, epochs=10)


class Experts(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.router = nn.Linear(inputs, 4)
        self.experts = nn.ModuleList(mlp(inputs, 32, outputs) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        picked = every.gather(1, chosen[..., None].expand(-1, -1, every.shape[-1]))
        return (weights[..., None] * picked).sum(1)


def experts() -> Program:
    data = blobs()
    return Program("experts", data.train, data.val, Experts(16, 10), F.cross_entropy, adam(3e-3), "classes", 3e-3)


DEVELOPMENT: dict[str, Callable[[], Program]] = {
    build.__name__: build
    for build in (blobs, tabular, regression, cnn, resnet, gru, lstm, encoder, causal, vae, gcn, gan)
}
HELD_OUT: dict[str, Callable[[], Program]] = {build.__name__: build for build in (vit, diffusion, ssm, experts)}
