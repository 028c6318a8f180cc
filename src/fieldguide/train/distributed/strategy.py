"""How processes share a training: what the loop asks of any of them, and the one that has nothing to share."""

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch, Objective
from fieldguide.optim import Clip
from fieldguide.train import checkpoint
from fieldguide.train.checkpoint import Crew, read
from fieldguide.train.distributed.group import Group
from fieldguide.train.failures import Elsewhere
from fieldguide.train.randomness import reseed
from fieldguide.train.recipe import Recipe
from fieldguide.train.signals import Stop

OUT_OF_MEMORY = 256
"""What a process says in place of an exit code, its rank added: more urgent than any of those."""
Window = tuple[Sequence[Batch], list[float], int]
"""The micro-batches of one step as this process computes them, the share of each in the step's mean over *all*
processes, and the weight of the whole."""


@runtime_checkable
class Strategy(Protocol):
    """One training on one or many processes. Every method that tells or asks the others is called by all of them."""

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints; exactly one does."""
        ...

    @property
    def size(self) -> int:
        """Processes."""
        ...

    def first(self, make: Callable[[], str]) -> str:
        """What the leading process makes, on all; a mistake that it meets is raised on all."""
        ...

    def require(self, recipe: Recipe, objective: Objective, model: nn.Module) -> None:
        """Raises FieldguideError for a recipe or an objective that cannot be shared like this."""
        ...

    def spread(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The network that this process trains in a ``with`` block; all begin with the leading process's weights."""
        ...

    def collect(self, trained: nn.Module, model: nn.Module) -> None:
        """Gives ``model`` all that ``trained`` learned."""
        ...

    def begin(self, seed: int, step: int) -> None:
        """A step begins, after so many: the random numbers of each process depend on (seed, step, rank) only."""
        ...

    def split(self, window: Sequence[Batch], weight: Callable[[Batch], int]) -> Window:
        """This process's part of a step's global micro-batches."""
        ...

    def expect(self, last: bool) -> None:
        """The next backward pass is the last one of a phase, or not yet."""
        ...

    def reduce(self, part: str, parameters: Sequence[nn.Parameter]) -> None:
        """After the last backward pass of a phase: the gradients are those of the whole step."""
        ...

    def sum(self, figures: dict[str, float]) -> dict[str, float]:
        """Shares of means become the means."""
        ...

    def same(self, figures: dict[str, float]) -> dict[str, float]:
        """The leading process's figures, on all: what follows from them is decided alike."""
        ...

    def agree(self, code: int) -> int:
        """The largest of all processes' codes."""
        ...

    def hear(self, stop: Stop) -> Stop:
        """A request to stop that any of the processes has received; asked by all of them at the same moments."""
        ...

    def ready(self) -> None:
        """Here all processes wait for each other; raises ``Elsewhere`` if one of them has run out of memory before."""
        ...

    def out_of_memory(self, line: str, training: bool) -> None:
        """It happened in this process, in a step of the ``training`` or an evaluation; the others raise ``Elsewhere``.

        Raises:
            FieldguideError: they wait in the middle of an exchange, so the ``line`` ends the training in all processes.
        """
        ...

    def clip(self, clip: Clip, limit: float) -> Clip:
        """The same clipping, by the norm over all processes."""
        ...

    def local(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What of these lies in this process."""
        ...

    def parts(self, state: Any) -> Any:
        """A state as this process saves it: a ``Slice`` for each tensor of which it has a part."""
        ...

    def shards(self, stored: Any) -> Any:
        """This process's part of a state in a checkpoint; nothing else of it is read."""
        ...

    def meeting(self) -> Crew:
        """All processes, to look for a checkpoint together."""
        ...

    def writers(self) -> Crew | None:
        """Those that write a checkpoint together; None when this process is none of them."""
        ...


class Single:
    """One process: all there is."""

    leads, size = True, 1

    def first(self, make: Callable[[], str]) -> str:
        return make()

    def require(self, recipe: Recipe, objective: Objective, model: nn.Module) -> None: ...

    def spread(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(model)

    def collect(self, trained: nn.Module, model: nn.Module) -> None: ...

    def begin(self, seed: int, step: int) -> None: ...

    def split(self, window: Sequence[Batch], weight: Callable[[Batch], int]) -> Window:
        weights = [weight(batch) for batch in window]
        return window, [part / sum(weights) for part in weights], sum(weights)

    def expect(self, last: bool) -> None: ...

    def reduce(self, part: str, parameters: Sequence[nn.Parameter]) -> None: ...

    def sum(self, figures: dict[str, float]) -> dict[str, float]:
        return figures

    def same(self, figures: dict[str, float]) -> dict[str, float]:
        return figures

    def agree(self, code: int) -> int:
        return code

    def hear(self, stop: Stop) -> Stop:
        return stop

    def ready(self) -> None: ...

    def out_of_memory(self, line: str, training: bool) -> None: ...

    def clip(self, clip: Clip, limit: float) -> Clip:
        return clip

    def local(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [*tensors]

    def parts(self, state: Any) -> Any:
        return state

    def shards(self, stored: Any) -> Any:
        return read(stored)

    def meeting(self) -> Crew:
        return checkpoint.ALONE

    def writers(self) -> Crew | None:
        return checkpoint.ALONE


ALONE = Single()


class Many:
    """What all strategies over several processes have in common."""

    def __init__(self, group: Group):
        self.group = group

    @property
    def leads(self) -> bool:
        return self.group.leads

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def stream(self) -> int:
        """Whose random numbers this process draws: its own, or those that all draw."""
        return 0

    def first(self, make: Callable[[], str]) -> str:
        return self.group.first(make)

    def begin(self, seed: int, step: int) -> None:
        self.group.pulse.step = step
        words = np.random.SeedSequence((seed, step, self.stream)).generate_state(1, np.uint64)
        reseed(int(words[0]) >> 1)

    def same(self, figures: dict[str, float]) -> dict[str, float]:
        return dict(zip(figures, self.group.gather([*figures.values()])[0], strict=True))

    def agree(self, code: int) -> int:
        return int(max(codes[0] for codes in self.group.gather([code])))

    def hear(self, stop: Stop) -> Stop:
        return _Heard(self, stop)

    def ready(self) -> None:
        require_memory(self.agree(0))

    def out_of_memory(self, line: str, training: bool) -> None:
        """Ends all: a forward pass has exchanges of its own, in which the others wait."""
        line = f"rank {self.group.rank}: {line}, while the others wait for it"
        self.group.pulse.give_up(line)
        raise FieldguideError(line)

    def meeting(self) -> Crew:
        return self.group.meeting()

    def writers(self) -> Crew | None:
        return self.group.meeting()

    def local(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [*tensors]


def require_memory(code: int) -> None:
    """Raises ``Elsewhere`` if that is what the processes have agreed on."""
    if code >= OUT_OF_MEMORY:
        raise Elsewhere(f"rank {code - OUT_OF_MEMORY} ran out of memory")


class _Heard(Stop):
    """One process that is to stop stops all, after the same step."""

    def __init__(self, many: Many, stop: Stop):
        super().__init__()
        self.many, self.stop = many, stop

    @property
    def requested(self) -> bool:
        if code := self.many.agree(self.stop.exit_code):
            require_memory(code)
            self.signal = signal.Signals(code - 128)
        return self.signal is not None
