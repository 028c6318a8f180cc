"""``fieldguide generate RUN --prompt TEXT``: a trained network writes on, or answers."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from fieldguide.cli.options import Flag, Json, Positive
from fieldguide.cli.terminal import say_json
from fieldguide.errors import FieldguideError

NotNegative = Annotated[float, Parameter(validator=validators.Number(gte=0))]


def generate(
    run: Path,
    /,
    *,
    prompt: tuple[str, ...] = (),
    max_new_tokens: Positive | None = None,
    temperature: NotNegative = 0.0,
    top_k: Positive | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop: tuple[str, ...] = (),
    beams: Positive = 1,
    best: Positive = 1,
    length_penalty: float = 1.0,
    seed: int = 0,
    stream: Flag = False,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    device: str = "cpu",
    json: Json = False,
) -> None:
    """Let a trained language model continue prompts, or a text-to-text network answer them.

    Parameters
    ----------
    run
        The run's folder, such as runs/gpt_mini-python_source-1.
    prompt
        A text to continue or to answer; several are done together.
    max_new_tokens
        The most tokens to add; without it 200, or as many as the network has room for.
    temperature
        0 takes the likeliest token each time; above 0 draws, the higher the more freely.
    top_k
        Draw among the k likeliest tokens only.
    top_p
        Draw among the likeliest tokens that together have this probability.
    min_p
        Draw among tokens of at least this share of the likeliest one's probability.
    repetition_penalty
        Above 1 makes tokens less likely that are there already.
    stop
        End at this text; may be given several times.
    beams
        Keep this many candidates at each step instead of one (beam search).
    best
        How many of them to show, the best first.
    length_penalty
        0 favours short answers, 1 compares the mean of their tokens.
    seed
        The same seed draws the same text.
    stream
        Show tokens as they come.
    precision
        Round the weights for faster steps on a processor: "fp16" hardly ever changes a token, "int8" may.
    device
        Where to compute.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.generation import Generation, Sampling
    from fieldguide.train.run import RunFolder

    if not prompt:
        raise FieldguideError(f'generate needs a prompt: fieldguide generate {run} --prompt "…"')
    if best > beams:
        raise FieldguideError(f"--best {best} needs --beams of at least {best}")
    if stream and (json or len(prompt) > 1 or beams > 1):
        raise FieldguideError("--stream shows one text as it comes; leave --json, --beams and further prompts out")
    if beams > 1 and (temperature or stop):
        raise FieldguideError("--beams searches for the likeliest text; leave --temperature and --stop out")
    network = Generation.of(RunFolder.open(run), choose_device(device), precision)
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty, seed=seed
    )
    if stream:
        for piece in network.stream("".join(prompt), max_new_tokens, sampling, stop):
            print(piece, end="", flush=True)
        print()
        return
    if beams > 1:
        found = network.search(prompt, max_new_tokens, width=beams, best=best, length_penalty=length_penalty)
    else:
        found = [[{"text": text}] for text in network.write(prompt, max_new_tokens, sampling, stop)]
    if json:
        say_json([{"prompt": asked, "texts": texts} for asked, texts in zip(prompt, found, strict=True)])
        return
    for texts in found:
        for text in texts:
            print(f"{text['score']:8.3f}  {text['text']}" if "score" in text else text["text"])
