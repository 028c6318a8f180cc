"""What attention costs: growth with length, memory, and ratios to what one would otherwise use.

    python -m benchmarks.attention [growth] [memory] [ratios] [dispatch] [--rounds 5] [--out attention.md|.json]

Batch 1, 8 heads of width 64, float32, forward + backward unless said otherwise; all candidates of a comparison take
turns in one process. Compared with, if installed: the ``local-attention`` package. Flex is ``torch.compile``d and
measured forward only, since it has no backward pass on a processor.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from math import log2
from pathlib import Path
from statistics import linear_regression, median, quantiles
from time import perf_counter

import torch
import torch.nn.functional as F

from benchmarks.timing import Times, in_turns
from fieldguide.blocks.attend import attend
from fieldguide.blocks.cores import Core, Linear, Linformer, Performer, Projection
from fieldguide.blocks.kernels.flex import flex
from fieldguide.blocks.masks import Causal, Chunked, Full, Global, Mask, Strided, Window

HEADS, WIDTH, LENGTHS, LONGEST = 8, 64, (2048, 4096, 8192, 16384), 16384


@dataclass(frozen=True)
class Row:
    """One figure, and what it should be: ``"≤ 1.15"``, ``"≥ 11"`` or empty for one that is only told."""

    name: str
    value: float
    target: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        sign, bound = self.target.split()
        met = self.value <= float(bound) if sign == "≤" else self.value >= float(bound)
        return "met" if met else "MISSED"


def inputs(
    n: int, gradients: bool = True, *, batch: int = 1, heads: int = HEADS, width: int = WIDTH
) -> list[torch.Tensor]:
    return [torch.randn(batch, heads, n, width, requires_grad=gradients) for _ in range(3)]


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, compute: Callable[..., torch.Tensor]
) -> Callable[[], object]:
    def run():
        with torch.no_grad():
            compute(q, k, v)

    return run


def both(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, compute: Callable[..., torch.Tensor]
) -> Callable[[], object]:
    seed = torch.randn_like(q)

    def run():
        torch.autograd.grad(compute(q, k, v), (q, k, v), seed)

    return run


def attending(mask: Mask) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: attend(q, k, v, mask)


def masked_densely(mask: Mask, n: int) -> Callable[..., torch.Tensor]:
    seen = mask.dense(n).contiguous()
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, seen)


def look_back(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int = 256) -> torch.Tensor:
    """Causal local attention as it is usually written: chunks, each beside the one before it, scores kept whole."""
    b, h, n, c = q.shape
    chunks = [x.reshape(b, h, n // window, window, c) for x in (q, k, v)]
    before = [F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1] for x in chunks[1:]]
    keys, values = (torch.cat((past, here), 3) for past, here in zip(before, chunks[1:], strict=True))
    at, to = torch.arange(n).view(-1, window), torch.arange(n).view(-1, window)
    to = torch.cat((to - window, to), 1)
    distance = at.unsqueeze(2) - to.unsqueeze(1)
    hidden = (distance < 0) | (distance >= window) | (to.unsqueeze(1) < 0)
    scores = (chunks[0] @ keys.transpose(-2, -1) * c**-0.5).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ values).reshape(b, h, n, c)


# --- Sections


def growth(rounds: int) -> list[Row]:
    """Exponents of time in length, 2 k to 16 k."""
    computes: dict[str, tuple[Callable[[int], Callable[..., torch.Tensor]], str]] = {
        "Window(256)": (lambda n: attending(Window(256)), "≤ 1.15"),
        "Causal() & Window(256)": (lambda n: attending(Causal() & Window(256)), ""),
        "Chunked(512)": (lambda n: attending(Chunked(512)), "≤ 1.15"),
        "Causal() & Strided(√n)": (lambda n: attending(Causal() & Strided(round(n**0.5))), "≤ 1.6"),
        "Window(256) | Global([0, 1])": (lambda n: attending(Window(256) | Global([0, 1])), ""),
        "Linear": (lambda n: _core(Linear()), "≤ 1.15"),
        "Performer": (lambda n: _core(Performer(256)), "≤ 1.15"),
        "Linformer": (lambda n: _core(Linformer(Projection(n, 256))), "≤ 1.15"),
    }
    rows = []
    for name, (make, target) in computes.items():
        times = in_turns({str(n): both(*inputs(n), compute=make(n)) for n in LENGTHS}, rounds)
        seconds = [times[str(n)].median for n in LENGTHS]
        slope = linear_regression([log2(n) for n in LENGTHS], [log2(s) for s in seconds]).slope
        listing = ", ".join(f"{n // 1024} k: {_ms(times[str(n)])}" for n in LENGTHS)
        rows.append(_tell(Row(f"growth exponent, {name}", slope, target, listing)))
    return rows


def _core(core: Core) -> Callable[..., torch.Tensor]:
    core.fit(WIDTH)
    return lambda q, k, v: core(q, k, v)


def ratios(rounds: int) -> list[Row]:
    """Time of the alternatives, in units of attend's."""
    n, causal, two_sided = 8192, Causal() & Window(256), Window(256)
    q, k, v = inputs(n)
    candidates = {
        "attend": both(q, k, v, attending(causal)),
        "attend two-sided": both(q, k, v, attending(two_sided)),
        "dense": both(q, k, v, masked_densely(causal, n)),
        "look-back": both(q, k, v, look_back),
        "attend forward": forward(q, k, v, attending(causal)),
        "flex forward": forward(q, k, v, lambda q, k, v: flex(q, k, v, causal)),
    }
    if find_spec("local_attention"):
        from local_attention import LocalAttention  # pyright: ignore[reportMissingImports]

        package = LocalAttention(window_size=256, causal=True, look_backward=1, exact_windowsize=True, autopad=False)
        candidates["package"] = both(q, k, v, package)
    times = in_turns(candidates, rounds)

    def ratio(slow: str, fast: str, name: str, target: str) -> Row:
        note = f"{_ms(times[slow])} / {_ms(times[fast])}"
        return _tell(Row(name, times[slow].median / times[fast].median, target, note))

    rows = [
        ratio("dense", "attend", "Causal() & Window(256) at 8 k: faster than SDPA with a dense mask", "≥ 11"),
        ratio("dense", "attend two-sided", "Window(256) at 8 k: faster than SDPA with a dense mask", "≥ 7"),
        ratio("look-back", "attend", "Causal() & Window(256) at 8 k: faster than plain look-back chunks", "≥ 2"),
        ratio(
            "flex forward", "attend forward", "the same, forward: compiled FlexAttention's time over attend's", "≥ 1"
        ),
    ]
    if "package" in times:
        rows.append(ratio("package", "attend", "the same: faster than the local-attention package", "≥ 2"))
    else:
        print("the local-attention package is not installed: not compared with")
    return rows


def dispatch(rounds: int) -> list[Row]:
    """attend against plain scaled_dot_product_attention where that suffices."""
    shares = {}
    sizes = [(1, 8, 64), (8, 8, 64), (4, 12, 64), (2, 16, 32)]
    for (b, h, c), n, causal in product(sizes, (64, 128, 256, 512, 1024), (False, True)):
        q, k, v = inputs(n, gradients=False, batch=b, heads=h, width=c)
        mask = Causal() if causal else Full()
        calls = (partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal), partial(attend, q, k, v, mask))
        pairs: list[list[float]] = []
        with torch.no_grad():
            end = perf_counter() + 0.1 * rounds
            while perf_counter() < end or len(pairs) < 31:
                pair = [0.0, 0.0]
                for which in (0, 1) if len(pairs) % 2 else (1, 0):  # neither is always the one that comes first
                    started = perf_counter()
                    calls[which]()
                    pair[which] = perf_counter() - started
                pairs.append(pair)
        plain, ours = (quantiles(times, n=4)[0] for times in zip(*pairs, strict=True))  # interruptions only ever add
        shares[b, h, n, c, causal] = plain / ours, plain
    worst = min(shares, key=lambda shape: shares[shape][0])
    note = f"lowest at (b, h, n, c) = {worst[:4]}, {'causal' if worst[4] else 'full'}, {shares[worst][1] * 1e6:.0f} µs"
    return [
        _tell(Row("attend over SDPA, lowest of 40 shapes", shares[worst][0], "≥ 0.97", note)),
        _tell(Row("attend over SDPA, median of 40 shapes", median(share for share, _ in shares.values()))),
    ]


def memory(rounds: int) -> list[Row]:
    """Peak memory beyond the inputs, each in a process of its own; of several, the least."""
    rows = []
    for direction in ("forward", "both"):
        peaks = {
            (kind, n): min(_peak(kind, n, direction) for _ in range(max(1, rounds // 3)))
            for kind, n in [
                ("window", 4096),
                ("window", LONGEST),
                ("dense", LONGEST),
                ("plain", 4096),
                ("plain", LONGEST),
            ]
        }
        window, dense, plain = (peaks[kind, LONGEST] for kind in ("window", "dense", "plain"))
        passes = "forward" if direction == "forward" else "forward + backward"
        note = f"MB: window {window:.0f}, dense mask {dense:.0f}, no mask at all {plain:.0f}"
        target = "≤ 0.05" if direction == "forward" else ""
        rows.append(
            _tell(Row(f"{passes}, peak of Window(256) at 16 k over the dense mask's", window / dense, target, note))
        )
        if direction == "both":
            beyond = (window - plain) / (dense - plain)
            name = f"{passes}, the same beyond outputs and gradients (what no mask at all needs)"
            rows.append(_tell(Row(name, beyond, "≤ 0.05")))
        slope = log2(window / peaks["window", 4096]) / 2
        rows.append(_tell(Row(f"{passes}, growth exponent of Window(256)'s peak, 4 k to 16 k", slope, "≤ 1.15")))
    return rows


PEAK = """
import sys, torch
from pathlib import Path
from benchmarks.attention import attending, both, forward, inputs, masked_densely
from fieldguide.blocks.masks import Full, Window
kind, n, direction = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def status(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])
def make(n):
    mask = Full() if kind == "plain" else Window(256)
    compute = masked_densely(mask, n) if kind == "dense" else attending(mask)
    return (forward if direction == "forward" else both)(*inputs(n, direction == "both"), compute=compute)
make(1024)()
run = make(n)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
run()
print((status("VmHWM") - before) / 1024)
"""


def _peak(kind: str, n: int, direction: str) -> float:
    command = [sys.executable, "-c", PEAK, kind, str(n), direction]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _ms(times: Times) -> str:
    mark = "" if len(times.clean) >= 3 else " (disturbed)"
    return f"{times.median * 1e3:.4g} ms ± {times.spread:.0%}{mark}"


def _tell(row: Row) -> Row:
    print(f"{row.name:82} {row.value:8.3f}  {row.target:7} {row.verdict:6} {row.note}", flush=True)
    return row


SECTIONS = {section.__name__: section for section in (growth, memory, ratios, dispatch)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], default=[], metavar="section")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {HEADS} heads of {WIDTH}")
    rows = [row for name in options.sections or SECTIONS for row in SECTIONS[name](options.rounds)]
    if options.out is not None and options.out.suffix == ".json":
        options.out.write_text(json.dumps([{**asdict(row), "verdict": row.verdict} for row in rows], indent=1))
    elif options.out is not None:
        lines = [f"| {r.name} | {r.value:.3f} | {r.target} | {r.verdict} | {r.note} |" for r in rows]
        options.out.write_text("\n".join(["| figure | value | target | | |", "|---|---|---|---|---|", *lines, ""]))


if __name__ == "__main__":
    main()
