"""What a GPU does with our networks, beside other libraries' and beside its own limits.

    python -m benchmarks.gpu [--parts limits attention training vision generation tuned] [--quick] [--out FILE.json]
                             [--docs] [--from FILE.json]

*limits*: a large product and a large copy, what everything else is measured by. *attention*: ``attend`` beside each of
PyTorch's own kernels, forward and backward; the ratio is to the fastest. *training*: tokens per second of GPT-2 in our
training loop (bf16 autocast, AdamW, 1,024 tokens). *vision*: images per second beside timm's, same precision and
format. *generation*: tokens per second of GPT-2 in bf16 beside transformers' ``generate``. *tuned*: ``tune`` with
bf16 allowed, over the network as it is in fp32. Medians of alternating rounds. ``--quick`` is for trying the script.
``--docs`` replaces the tables of these parts in the page; ``--from`` takes them from what ``--out`` left elsewhere.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fieldguide as fg
from benchmarks.pages import merged
from fieldguide.blocks.masks import Causal, Full
from fieldguide.objectives import NextToken
from fieldguide.profile.clock import synchronize
from fieldguide.train.feeds import IndexedFeed
from fieldguide.train.loop import Loop
from fieldguide.train.recipe import Recipe

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
SHAPES = [
    *product([(64, 12, 197, 64), (16, 12, 512, 64), (16, 12, 1024, 64), (8, 16, 2048, 64), (4, 16, 4096, 64)], [0, 1]),
    *product([(8, 16, 1024, 128), (8, 16, 2048, 128), (4, 16, 4096, 128), (2, 16, 8192, 128)], [0, 1]),
]
VISION = {"resnet50": "resnet50", "vit_b_16": "vit_base_patch16_224", "efficientnet_b0": "efficientnet_b0"}

Row = dict[str, Any]


def alternately(runs: dict[str, Callable[[], object]], rounds: int = 9, warm_up: int = 3) -> dict[str, float]:
    """Median seconds of each, in turns, after a warm-up."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            synchronize(DEVICE)
            started = perf_counter()
            run()
            synchronize(DEVICE)
            taken[name].append(perf_counter() - started)
    return {name: median(seconds) for name, seconds in taken.items()}


def limits(quick: bool) -> Iterator[Row]:
    n = 512 if quick else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.empty(n * n * 16, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    seconds = alternately({"product": lambda: a @ b, "copy": lambda: target.copy_(source)})
    yield {
        "product_tflops": 2 * n**3 / seconds["product"] / 1e12,
        "copy_tb_s": 2 * len(source) / seconds["copy"] / 1e12,
    }


def attention(quick: bool) -> Iterator[Row]:
    for (b, h, n, c), causal in SHAPES[: 2 if quick else None]:
        q, k, v = (torch.randn(b, h, n, c, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        upstream, mask = torch.randn_like(q), Causal() if causal else Full()

        def both(compute: Callable[[], torch.Tensor], x: Any = (q, k, v), upstream: torch.Tensor = upstream) -> None:
            torch.autograd.grad(compute(), x, upstream)

        def ours(x: Any = (q, k, v), mask: Any = mask) -> torch.Tensor:
            return fg.attend(*x, mask)

        def theirs(backend: SDPBackend, x: Any = (q, k, v), causal: Any = causal) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*x, is_causal=bool(causal))

        runs: dict[str, Callable[[], object]] = {"attend": lambda: both(ours)}
        for name, backend in BACKENDS.items():
            try:
                theirs(backend)
            except RuntimeError:
                continue  # not on this machine
            runs[name] = lambda backend=backend: both(lambda: theirs(backend))
        seconds = alternately(runs)
        best = min((name for name in seconds if name != "attend"), key=seconds.__getitem__, default="attend")
        flops = 14 * b * h * n * n * c / (2 if causal else 1)
        yield {
            "shape": f"{b}×{h}×{n}×{c}{' causal' if causal else ''}",
            "ms": 1e3 * seconds["attend"],
            "tflops": flops / seconds["attend"] / 1e12,
            "fastest": best,
            "ratio": seconds["attend"] / seconds[best],
        }


def training(quick: bool) -> Iterator[Row]:
    batch, length, steps = (2, 32, 3) if quick else (32, 1024, 12)
    model = fg.create_model("gpt_mini" if quick else "gpt2", dropout=0.0).to(DEVICE)
    tokens = torch.randint(model.config.vocab_size, (batch * steps, length + 1), device=DEVICE)
    feed = IndexedFeed((tokens,), batch, seed=0, shuffle=True)
    for compiled in (False, True):
        if compiled:
            model.compile()
        loop = Loop(model, feed, None, NextToken(), Recipe(epochs=4, batch_size=batch, precision="bf16"))
        model.train()
        seconds = []
        for _ in range(3):
            synchronize(DEVICE)
            started = perf_counter()
            loop.train_epoch()
            loop.finish_epoch()
            synchronize(DEVICE)
            seconds.append(perf_counter() - started)
        speed = tokens[:, 1:].numel() / min(seconds[1:])
        c, weights = model.config, sum(p.numel() for p in model.parameters())
        operations = 6 * weights + 12 * c.num_layers * c.d_model * length
        yield {
            "network": "gpt2",
            "compiled": compiled,
            "tokens_s": speed,
            "tflops": operations * speed / 1e12,
            "first_epoch_s": seconds[0],
        }


def vision(quick: bool) -> Iterator[Row]:
    for ours, theirs in VISION.items():
        batch = 2 if quick else 256
        images = torch.randn(batch, 3, 224, 224, device=DEVICE).to(memory_format=torch.channels_last)
        labels = torch.randint(1000, (batch,), device=DEVICE)
        networks = {"ours": fg.create_model(ours), "timm": import_module("timm").create_model(theirs)}
        infer, train = {}, {}
        for who, network in networks.items():
            network.to(DEVICE, memory_format=torch.channels_last)
            infer[who] = _inference(deepcopy(network).eval(), images)
            train[who] = _step(network.train(), images, labels)
        for work, runs in (("inference", infer), ("training", train)):
            seconds = alternately(runs, 2 if quick else 9)
            speed = batch / seconds["ours"]
            yield {"network": ours, "work": work, "images_s": speed, "ratio": seconds["ours"] / seconds["timm"]}


def _inference(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
            model(images)

    return run


def _step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def generation(quick: bool) -> Iterator[Row]:
    transformers = import_module("transformers")
    size = {"n_layer": 2} if quick else {}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).to(DEVICE, torch.bfloat16).eval()
    ours = fg.create_model("gpt2", **({"num_layers": 2} if quick else {}))
    fg.load_weights(ours, theirs.state_dict())
    ours.to(DEVICE, torch.bfloat16).eval()
    new = 40 if quick else 128
    for batch in (1, 8):
        prompt = torch.randint(50_000, (batch, 32), device=DEVICE)

        def their_run(prompt: torch.Tensor = prompt) -> None:
            keep = torch.ones_like(prompt)
            theirs.generate(prompt, attention_mask=keep, max_new_tokens=new, min_new_tokens=new, pad_token_id=0)

        seconds = alternately(
            {"ours": lambda prompt=prompt: ours.generate(prompt, max_new_tokens=new), "theirs": their_run}, 3, 1
        )
        yield {
            "batch": batch,
            "tokens_s": batch * new / seconds["ours"],
            "theirs_tokens_s": batch * new / seconds["theirs"],
            "ratio": seconds["theirs"] / seconds["ours"],
        }


def tuned(quick: bool) -> Iterator[Row]:
    for name in ("resnet_mini",) if quick else ("resnet50", "vit_b_16"):
        model = fg.create_model(name).to(DEVICE)
        channels, side = (model.config.in_channels, 32) if quick else (3, 224)
        found = fg.tune(
            model, torch.randn(64, channels, side, side, device=DEVICE), 1e-2, seconds=10, compile_seconds=45
        )
        yield {"network": name, "settings": list(found.settings), "speedup": found.speedup, "error": found.error}


PARTS = {
    "limits": limits,
    "attention": attention,
    "training": training,
    "vision": vision,
    "generation": generation,
    "tuned": tuned,
}


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(map(shown, row.values()))} |" for row in rows)])


def measured(parts: list[str], quick: bool, out: Path | None) -> dict[str, Any]:
    """The rows of every part, and what they were measured on."""
    if DEVICE.type == "cpu" and not quick:
        raise SystemExit(print("there is no GPU here, so nothing was measured"))
    torch.manual_seed(0)
    place = torch.cuda.get_device_name() if DEVICE.type == "cuda" else DEVICE.type
    found: dict[str, Any] = {"place": f"torch {torch.__version__}, {place}", "parts": {}}
    print(found["place"])
    for part in parts:
        rows = found["parts"][part] = []
        for row in PARTS[part](quick):
            rows.append(row)
            print(part, "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
        if out:  # after each, so that what is cut off has left something
            out.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--from", type=Path, dest="source")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/speed.md")
    options = parser.parse_args()
    if options.source:
        found = json.loads(options.source.read_text())
    else:
        found = measured(options.parts, options.quick, options.out)
    if options.docs:
        parts = {part: f" · {found['place']}\n\n{table(rows)}" for part, rows in found["parts"].items() if rows}
        merged("speed", "gpu", parts)
