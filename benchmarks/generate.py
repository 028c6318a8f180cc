"""Generation on a processor against transformers' own ``generate``, with the same weights, in turns.

    python -m benchmarks.generate [--models gpt2 t5_small] [--batches 1 8] [--prompt 128] [--new 128] [--rounds 5]
                                  [--steps 400] [--out FILE.json]

Networks have random weights, which we write as transformers' files and it reads. Greedy, fp32, as many tokens as asked.
``ratio`` is our tokens per second over transformers', ``spread`` the quartiles' distance as a share of ours, ``same``
the share of tokens that agree. ``of bound``: weights are read once a step, so no step can be faster than their bytes
over the memory's bandwidth, measured first; prompts and caches are left out of the bound but not of the times.

In bf16, where the processor has instructions for it, both read half of the bytes and round alike but not the same.
Packed is the default, made anew for every text, which its times include; ``as is`` does without; Half and Int8 are made
once, before. These two are not exact, and random weights cannot show what they cost: a small network learns Python's
own source for that, and is then measured with each kind.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter

import torch
import transformers
from torch import Tensor, nn

from benchmarks.timing import in_turns
from fieldguide.blocks.decoding import Half, Int8, LanguageModel, Packed, TextToText, Weight, prepared
from fieldguide.data.documents import python_source
from fieldguide.data.windows import TokenWindows
from fieldguide.models import create_model
from fieldguide.weights import save_weights

MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**ENDLESS)),
    "t5_small": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(decoder_start_token_id=0, **ENDLESS)
    ),
}
ENDLESS = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
"""No token ends a text, so both write as many as they are asked for."""
BITS: dict[torch.dtype, dict[type[Weight] | None, int]] = {
    torch.float32: {Packed: 32, None: 32, Half: 16, Int8: 8},
    torch.bfloat16: {Packed: 16, None: 16},
}


@dataclass(frozen=True)
class Row:
    model: str
    dtype: str
    batch: int
    weights: str
    tokens_per_second: float
    theirs: float
    ratio: float
    spread: float
    same: float
    of_bound: float
    their_share: float
    """Of the bound of the type."""

    def __str__(self) -> str:
        return (
            f"{self.model:<8} {self.dtype:<8} batch {self.batch}  {self.weights:<7} {self.tokens_per_second:7.1f} "
            f"tokens/s   transformers {self.theirs:7.1f}   ratio {self.ratio:.2f}   spread {self.spread:4.0%}   "
            f"same {self.same:4.0%}   of bound {self.of_bound:4.0%} (transformers {self.their_share:.0%})"
        )


def bandwidth() -> float:
    """Bytes per second that this machine reads from memory, at best."""
    numbers, best = torch.ones(2**27), math.inf
    for _ in range(12):
        started = perf_counter()
        numbers.sum()
        best = min(best, perf_counter() - started)
    return numbers.nbytes / best


def pair(name: str) -> tuple[LanguageModel | TextToText, nn.Module]:
    """Ours, and the same network as transformers reads it from a file of ours."""
    torch.manual_seed(0)
    ours = create_model(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        empty = MODELS[name]()
        empty.config.save_pretrained(folder)
        empty.generation_config.save_pretrained(folder)
        save_weights(ours, Path(folder) / "model.safetensors", "transformers")
        return ours, type(empty).from_pretrained(folder).eval()


def bytes_read(model: nn.Module) -> int:
    """In one step: every table and layer that takes part in it."""
    outside = ("encoder.", "embeddings.positions.")
    return sum(weight.nbytes for name, weight in model.named_parameters() if not name.startswith(outside))


def measure(
    name: str, dtype: torch.dtype, batch: int, prompt_length: int, new: int, rounds: int, speed: float
) -> Iterator[Row]:
    ours, theirs = pair(name)
    ours.to(dtype), theirs.to(dtype)
    full = torch.finfo(dtype).bits
    prompt = torch.randint(2, 32_000, (batch, prompt_length), generator=torch.Generator().manual_seed(batch))

    def their_tokens() -> Tensor:
        mask = torch.ones_like(prompt)
        return theirs.generate(prompt, attention_mask=mask, max_new_tokens=new, do_sample=False)[:, -new:]

    def our_run(kind: type[Weight] | None) -> Callable[[], Tensor]:
        exact = kind in (Packed, None)
        network = ours if exact or kind is None else prepared(ours, kind)
        return lambda: network.generate(prompt, max_new_tokens=new, weights=kind if exact else None)

    runs = {kind: our_run(kind) for kind in BITS[dtype]}
    times = in_turns({"transformers": their_tokens, **{label(kind): run for kind, run in runs.items()}}, rounds)
    expected, bound, theirs_took = their_tokens(), new * bytes_read(ours) / speed, times["transformers"].median
    for kind, run in runs.items():
        took = times[label(kind)]
        yield Row(
            name,
            str(dtype).removeprefix("torch."),
            batch,
            label(kind),
            batch * new / took.median,
            batch * new / theirs_took,
            theirs_took / took.median,
            took.spread,
            float((run() == expected).double().mean()),
            bound * BITS[dtype][kind] / full / took.median,
            bound / theirs_took,
        )


def label(weights: type[Weight] | None) -> str:
    return weights.__name__ if weights else "as is"


def perplexities(steps: int) -> dict[str, float]:
    """Of a byte-level GPT on source that it has not seen, with each kind of weights."""
    torch.manual_seed(0)
    text = torch.tensor(list("\n".join(one.text for one in python_source()[:400]).encode()))
    seen, held_out = text[:-65_536], text[-65_536:]
    model = create_model("gpt_mini", d_model=128, num_layers=4, num_heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    batches = TokenWindows(seen, 128, 12).batches(0)
    for _, batch in zip(range(steps), batches, strict=False):
        next_token_loss(model, batch[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return {label(kind): perplexity(model.eval(), kind, held_out) for kind in (None, Half, Int8)}


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, weights: type[Weight] | None, text: Tensor) -> float:
    network = prepared(model, weights) if weights else model
    losses = [next_token_loss(network, batch) for (batch,) in TokenWindows(text, 128, 1, shuffle=False).batches(0)]
    return math.exp(torch.stack(losses).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="of training before perplexities are measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    speed = bandwidth()
    print(f"{torch.get_num_threads()} threads, memory read at {speed / 1e9:.1f} GB/s")
    dtypes = [*BITS]
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("bf16 is left out: this processor has no instructions for it")
        dtypes.remove(torch.bfloat16)
    rows = []
    for name, dtype, batch in product(options.models, dtypes, options.batches):
        for row in measure(name, dtype, batch, options.prompt, options.new, options.rounds, speed):
            rows.append(row)
            print(row, flush=True)
    costs = perplexities(options.steps) if options.steps else {}
    for kind, value in costs.items():
        print(f"perplexity of a byte of Python's source, {kind:<6} {value:.4f} ({value / costs['as is'] - 1:+.2%})")
    if options.out:
        report = {"bandwidth": speed, "rows": [asdict(row) for row in rows], "perplexity": costs}
        options.out.write_text(json.dumps(report, indent=2) + "\n")
