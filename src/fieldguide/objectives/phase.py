"""What is minimised: an objective turns a model and a batch into phases, and the loop does the rest.

A phase is one loss and the name of the part of the model it trains. Most objectives have one phase; a GAN has two:

    class Adversarial:
        monitor = ("loss", "min")
        def parts(self, model): return {"discriminator": model.discriminator, "generator": model.generator}
        def weight(self, batch): return len(batch)
        def step(self, model, batch):
            fake = model.generator(noise(batch))
            yield Phase("discriminator", separation(model.discriminator, batch, fake.detach()))
            yield Phase("generator", deception(model.discriminator, fake))     # the discriminator has moved by now
        def metrics(self): ...
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Any
"""Whatever the data yields; only the objective looks inside. Image data yield ``(inputs, targets)``."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One loss to go down by changing one part of the model."""

    parameters: str
    """Name of the trained part, a key of the objective's ``parts``; each part has an optimizer of its own."""
    loss: Tensor
    """Scalar mean over the batch's ``weight``, so that micro-batches can be summed exactly."""
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    """Further scalars for the step's record, means over ``weight`` as well."""


@runtime_checkable
class Metrics(Protocol):
    """Figures gathered over a data set, one batch at a time."""

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds one batch; called in eval mode, without gradients."""
        ...

    def compute(self) -> dict[str, float]:
        """The figures over everything added; ``loss`` is always among them."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What a loss looks like from the training loop."""

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        """The metric that decides which epoch is best, and its good direction."""
        ...

    def parts(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The parts of the model that learn, one optimizer each."""
        ...

    def weight(self, batch: Batch) -> int:
        """What the loss is a mean over: the samples (or unmasked tokens) of this batch."""
        ...

    def step(self, model: nn.Module, batch: Batch) -> Iterator[Phase]:
        """Yields the phases in order; the part has been updated when the generator is resumed."""
        ...

    def metrics(self) -> Metrics:
        """A fresh, empty set of metrics."""
        ...
