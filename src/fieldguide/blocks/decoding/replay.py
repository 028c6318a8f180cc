"""On a GPU, steps of generation recorded once and replayed: launching their kernels takes longer than running them.

A recording has one set of shapes and addresses, so the cache is one whose last place is always the newest token, and
``keep`` hides the places before the first, as it hides padding on the left.

b batch · n places · v vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from fieldguide.blocks.cache import Cache, DynamicCache, RollingCache
from fieldguide.blocks.decoding.steps import Steps
from fieldguide.blocks.positions import Rotary
from fieldguide.shapes import Float, Int, Tensor

Step = Callable[[], Tensor]
WARM_UP = 2


def recorded(step: Step, state: Sequence[Tensor]) -> Step:
    """The step as a CUDA graph, which writes its result where it wrote it first; ``state`` is left as it was.

    The graph knows addresses, not tensors: who replays it must keep what the step uses.

    A network that waits for the processor in the middle of a step cannot be recorded and is run as it is.
    """
    before = [x.clone() for x in state]
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):  # libraries set themselves up, which must not be recorded
            step()
    torch.cuda.current_stream().wait_stream(aside)
    try:
        with torch.cuda.graph(graph):
            result = step()
    except RuntimeError:
        return step
    finally:
        for x, kept in zip(state, before, strict=True):
            x.copy_(kept)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class Replayed(Steps):
    """The same steps, from the second on by a recording; for prompts of one batch that keeps its size."""

    def __init__(self, steps: Steps, places: int, record: Callable[[Step, Sequence[Tensor]], Step] = recorded):
        super().__init__(steps.model, steps.prompt, steps.cache)
        self.seen, self.steps, self.places, self.record = steps.seen, steps, places, record
        self._step: Step | None = None
        self._replay: Step | None = None

    @staticmethod
    def suits(steps: Steps) -> bool:
        """Whether one step is like the next: on a GPU, with a cache of ours, and no position that is a number."""
        turned = any(isinstance(module, Rotary) for module in steps.model.modules())
        return steps.prompt.is_cuda and isinstance(steps.cache, DynamicCache) and not turned

    def _predict(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        if self.cache.length == 0:
            return self.steps._predict(tokens)
        if self._replay is None:
            self._begin(tokens)
        self.tokens.copy_(tokens)
        assert self._replay is not None
        return self._replay()

    def _begin(self, tokens: Tensor) -> None:
        assert isinstance(self.cache, DynamicCache)
        cache = RollingCache(self.cache, self.places)
        keep = torch.zeros(len(tokens), self.places, dtype=torch.bool, device=tokens.device)
        keep[:, -self.cache.length :] = True if self.steps.keep is None else self.steps.keep[:, : self.cache.length]
        self.tokens = tokens.clone()

        def step() -> Tensor:
            keep.copy_(torch.cat((keep[:, 1:], torch.ones_like(keep[:, :1])), 1))
            return self.following(self.tokens, keep, cache)

        self._step, self._replay = step, self.record(step, [keep, *cache.state])

    def following(self, tokens: Tensor, keep: Tensor | None, cache: Cache) -> Tensor:
        return self.steps.following(tokens, keep, cache)
