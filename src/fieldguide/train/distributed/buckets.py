"""Gradients summed over all processes while the backward pass goes on."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

SIZE = 25 * 2**20
"""Bytes of a bucket, torch's own choice."""


class Bucket:
    """Some parameters whose gradients travel as one tensor."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = parameters
        self.missing: set[Tensor] = set(parameters)
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    def start(self) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        used = torch.tensor([float(p.grad is not None) for p in self.parameters])
        flat = [gradient.flatten() for gradient in gradients]
        self._flat = torch.cat([*flat, used.to(flat[0])])
        self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        """A parameter that no process has used keeps having no gradient, as on one process."""
        assert self._work
        assert self._flat is not None
        self._work.wait()
        *sums, used = self._flat.split([*(p.numel() for p in self.parameters), len(self.parameters)])
        for parameter, total, anyone in zip(self.parameters, sums, used.tolist(), strict=True):
            if anyone and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            if parameter.grad is not None:
                parameter.grad.copy_(total.view_as(parameter))
        self.missing, self._flat, self._work = set(self.parameters), None, None


class Buckets:
    """All buckets of a model, part by part; those of a part start in one order on all processes."""

    def __init__(self, model: nn.Module):
        self._last = False
        self._parts: dict[str, list[Bucket]] = {}
        self._home: dict[Tensor, tuple[str, Bucket]] = {}
        self._started: dict[str, int] = {}
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._ready) for parameter in learning]

    def expect(self, last: bool) -> None:
        self._last = last

    def finish(self, part: str, parameters: Sequence[nn.Parameter]) -> None:
        """Starts what has not started yet, because a parameter was not used, and waits for all."""
        if part not in self._parts:
            # Last layers first: the order in which the backward pass comes to them.
            buckets = self._parts[part] = [Bucket(some) for some in _filled([*reversed(parameters)])]
            self._home |= {parameter: (part, bucket) for bucket in buckets for parameter in bucket.parameters}
        for bucket in self._parts[part][self._started.pop(part, 0) :]:
            bucket.start()
        for bucket in self._parts[part]:
            bucket.finish()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _ready(self, parameter: Tensor) -> None:
        if not self._last or parameter not in self._home:
            return
        part, bucket = self._home[parameter]
        bucket.missing.discard(parameter)
        for waiting in self._parts[part][self._started.get(part, 0) :]:
            if waiting.missing:
                break
            waiting.start()
            self._started[part] = self._started.get(part, 0) + 1


def _filled(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters in their order, a new bucket whenever one is full or the number format changes."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if room <= 0 or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            room = SIZE
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets
