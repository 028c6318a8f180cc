"""``tune(model, example, tolerance)``: the fastest way that this machine has to compute the same answers."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.profile.measuring import mean_square
from fieldguide.profile.trying import Example, arguments_of, device_of, explaining, fitting, in_mode
from fieldguide.profile.tuning.answers import Examples, alike, answer
from fieldguide.profile.tuning.candidate import Arguments, Choice, Subject, copied
from fieldguide.profile.tuning.compiling import Compiled
from fieldguide.profile.tuning.folding import Folded
from fieldguide.profile.tuning.layout import ChannelsLast
from fieldguide.profile.tuning.packing import Int8Weights, PackedWeights
from fieldguide.profile.tuning.precision import Autocast, Products, Weights
from fieldguide.profile.tuning.search import Groups, Search
from fieldguide.profile.tuning.surroundings import KERNELS, AttentionKernel, fewer_threads
from fieldguide.profile.tuning.training import candidates as steps
from fieldguide.profile.tuning.training import tune_training
from fieldguide.profile.tuning.tuned import Trial, Tuned, TunedModel

TOLERANCE = 1e-4
"""Other orders of the same sums stay far below it; nothing in 16 bits does."""


def candidates() -> Groups:
    """What is tried. Packed weights come with each kind of number, because only packed do some of them pay."""
    packed = PackedWeights()
    return (
        fewer_threads(),  # first, because on a busy machine nothing else can be timed; and again at the end
        ((Folded(),),),
        ((ChannelsLast(),),),
        (
            (Weights(), packed),
            (Autocast(), packed),
            (packed,),
            (Products("medium"), packed),
            (Products("high"),),
            (Weights(torch.float16),),
            (Int8Weights(), packed),
        ),
        tuple((AttentionKernel(kernel),) for kernel in KERNELS),
        fewer_threads(),
        ((Compiled(),), (Compiled(graphs=True),)),
    )


def tune(
    model: nn.Module,
    example: Example,
    tolerance: float = TOLERANCE,
    *,
    examples: Sequence[Example] = (),
    train: bool = False,
    loss: Callable[[Any], Tensor] = mean_square,
    seconds: float = 30.0,
    compile_seconds: float = 60.0,
    remember_in: Path | str | None = None,
) -> Tuned:
    """Measure on this machine what makes a network faster, and return the fastest that keeps its answers.

    Every setting is compared with the original on ``example``, on ``examples`` and on one like ``example`` with its
    numbers drawn anew: ‖output − original‖ / ‖original‖ of each output tensor is at most ``tolerance``, whole numbers
    are equal. What passes is timed on ``example`` in turn with the original for about ``seconds``, and for at most
    ``compile_seconds`` a compiler is waited for (0: never). The winner has to win again in fresh rounds; otherwise the
    original is returned, as it is. The module is not changed; in evaluation mode it computes what the tuned one does.

    With ``train`` it is a training step that is measured: forward, ``loss(output)``, backward, AdamW. Its loss is
    within the relative tolerance, and its gradient as near to the original's as that of a network whose weights differ
    by a relative ``tolerance``. ``recipe`` of the result says the settings as fields of ``fieldguide.Recipe``;
    ``model`` is the original.

    The settings are remembered in this process, and in the JSON file ``remember_in``, for this machine, structure,
    shapes and tolerance: then only the answers are compared again.

    Raises FieldguideError for a module that cannot run on an example (with the layer and what it was given), that does
    not repeat its answers or does not fit the memory, for parts on several devices, and for a tolerance below 0.
    """
    arguments = arguments_of(example)
    device = device_of(model, arguments)
    if not tolerance >= 0:
        raise FieldguideError(f"tolerance = {tolerance} must be at least 0, such as 1e-2 for bf16")
    subject, size = Subject(model, arguments, device), len(arguments[0]) if arguments and arguments[0].ndim else 1
    file = Path(remember_in) if remember_in else None
    if train:
        trial = copied(model).train()
        with (
            torch.random.fork_rng(subject.generators),
            torch.no_grad(),
            explaining(trial, arguments),
            fitting(size, device),
        ):
            trial(*arguments)
        losses = partial(_losses, loss)
        return tune_training(
            *(model, arguments, losses, tolerance), groups=steps(),
            seconds=seconds, compile_seconds=compile_seconds, remember_in=file,
        )  # fmt: skip
    every = [arguments, *map(arguments_of, examples)]
    with torch.random.fork_rng(subject.generators), in_mode(model, False), torch.no_grad():
        for given in every:
            with explaining(model, given), fitting(size, device):
                model(*given)
        compared = Examples(model, [*every, *_drawn(model, arguments)], tolerance)

        def build(chosen: Choice) -> Trial:
            tuned = TunedModel(model, chosen, arguments, subject.dtype)
            return Trial(tuned, lambda: tuned(*arguments), compared.error(tuned))

        original = partial(model, *arguments)
        search = Search(subject, build, original, tolerance=tolerance, seconds=seconds, compile_seconds=compile_seconds)
        return search.tuned(candidates(), file)


def _losses(loss: Callable[[Any], Tensor], model: nn.Module, arguments: Arguments) -> Iterator[Tensor]:
    """Lazily, so that what surrounds the asking surrounds the forward pass."""
    yield loss(model(*arguments))


def _drawn(model: nn.Module, arguments: Arguments) -> list[Arguments]:
    """Further arguments like these; none where the network cannot take any numbers but its own."""
    drawn = alike(arguments)
    try:
        whole = all(x.isfinite().all() for x in answer(model, drawn))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return []
    return [drawn] * whole
