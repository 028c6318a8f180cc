"""What a training does about a step that fails: memory ran out, or its batch was bad.

A batch is bad when its loss or gradient is not finite, or, if the recipe asks, when its loss is a spike. The recipe's
``on_bad_batch`` decides: ``stop`` ends the training. ``skip`` goes on as if the batches of the step had not been there:
weights, optimizer, running statistics and random generators stay, the step counts. ``rollback`` goes back to the
newest good checkpoint and leaves the batches out on the way again, which also cures what an earlier step began; where
the bad step itself was the first sign, both end with the same bits.
"""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch
from fieldguide.trace import Record
from fieldguide.train.callbacks import TrainingWarning
from fieldguide.train.checkpoint import Checkpoints
from fieldguide.train.evaluation import evaluate
from fieldguide.train.failures import Diverged, Elsewhere, diverged, is_out_of_memory, smaller_batches
from fieldguide.train.feeds import Feed
from fieldguide.train.pieces import Pieces, free_memory
from fieldguide.train.spikes import Spikes
from fieldguide.train.undo import Undo

if TYPE_CHECKING:
    from fieldguide.train.loop import Loop

IN_A_ROW = 10
"""Steps left out one after the other before the training is what is bad, and not its batches."""
TIMES = 3
"""How often a training goes back before a step succeeds where it failed."""


class Recovery:
    """Steps and evaluations of a loop that survive what can be survived; its state is saved with the training.

    Raises:
        FieldguideError: rollback is asked for and there are no checkpoints.
    """

    def __init__(self, loop: "Loop", checkpoints: Checkpoints | None):
        self.loop, self.checkpoints, self.policy = loop, checkpoints, loop.recipe.on_bad_batch
        if self.policy == "rollback" and checkpoints is None:
            raise FieldguideError('on_bad_batch: "rollback" goes back to checkpoints; give a run folder, or use "skip"')
        self.undo = Undo(loop.model, loop.optimizers, loop.precision)
        self.spikes = Spikes(loop.recipe.loss_spike)
        self.pieces, self.val_pieces = Pieces(loop.model, "step"), Pieces(loop.model, "evaluation")
        self.left_out: list[list[int]] = []
        """Epoch and first batch of each step to leave out."""
        self.last = [0, 0]
        """Those of the step before."""
        self.in_a_row = 0
        self.times = self.failed = 0
        """How often the training went back in vain, and the last step from which it did."""
        self.losses: dict[str, float] = {}
        """Of the step under way, part by part."""

    @property
    def place(self) -> list[int]:
        """Epoch and first batch of the next step."""
        return [self.loop.progress.epoch, self.loop.progress.position]

    def step(self, window: Sequence[Batch]) -> Record:
        """The loop's step, in pieces where memory runs out; none on a window that is to be left out."""
        if self.place in self.left_out:
            return self._not_taken(window)
        self.undo.remember()
        self.losses = {}
        while True:
            try:
                figures = self.loop.step(self._cut(window))
                break
            except Diverged as problem:
                self.undo.undo()
                self._require_skip(problem)
                self.warn(f"{problem.what}; the step is left out", problem.record)
                return self._not_taken(window)
            except (RuntimeError, MemoryError) as problem:
                where = f"step {self.loop.progress.step + 1}, micro-batch {self.loop.micro_batch}"
                self._tell(problem, where, training=True)
                self.warn(self.pieces.halve(problem))
            self.undo.undo()  # out here, where no traceback holds the memory of the attempt
            free_memory()
        self.spikes.add(self.losses)
        self.last, self.in_a_row = self.place, 0
        if self.loop.progress.step > self.failed:
            self.times = 0
        return figures

    def require_good(self, part: str, loss: float, norm: float) -> None:
        """Looks at a part's loss and gradient before its update.

        Raises:
            Diverged: one is not finite, and no matter of fp16's scale, or the loss is a spike.
        """
        if not math.isfinite(loss + norm):
            if not self.loop.precision.may_overflow:
                raise diverged(self.loop.model, self.loop.progress, self.loop.strategy, loss, norm)
            self.undo.buffers()  # the optimizer will not move, and so shall nothing else
        elif spike := self.spikes.above(part, loss):
            raise diverged(self.loop.model, self.loop.progress, self.loop.strategy, loss, norm, spike)
        else:
            self.losses[part] = loss

    def evaluate(self, feed: Feed) -> dict[str, float]:
        """The objective's metrics over a feed, and the ``baseline`` of those that know what a constant answer costs.

        Anew and in pieces where memory runs out.
        """
        loop = self.loop
        while True:
            metrics = loop.objective.metrics()
            try:
                figures = evaluate(loop.model, feed, metrics, loop.precision, loop.stop, self.val_pieces)
                if (baseline := getattr(metrics, "baseline", None)) is not None:
                    figures["baseline"] = baseline
                loop.strategy.ready()
                return loop.strategy.same(figures)
            except (RuntimeError, MemoryError) as problem:
                self._tell(problem, f"the evaluation after step {loop.progress.step}", training=False)
                self.warn(self.val_pieces.halve(problem))
            free_memory()

    def go_back(self, problem: Diverged) -> None:
        """To the newest good checkpoint, with the bad step to be left out.

        Raises:
            Diverged: the policy is another one, or going back did not help.
        """
        rollback = self.checkpoints if self.policy == "rollback" else None
        restored = rollback.newest(crew=self.loop.strategy.meeting()) if rollback else None
        if restored is None or self.checkpoints is None:
            raise problem
        if self.times == TIMES:
            places = ", ".join(f"{batch} of epoch {epoch}" for epoch, batch in self.left_out[-TIMES:])
            raise problem.after(f"going back {TIMES} times and leaving out the steps of batch {places} did not help")
        self.times, self.failed = self.times + 1, self.loop.progress.step
        left_out = [*self.left_out, self.last if problem.spoiled else self.place]
        if self.loop.strategy.leads:
            self.checkpoints.clean(restored.folder)
        self.loop.load_state_dict(restored.stored)
        self.left_out = left_out
        self.warn(f"{problem.what}; back to step {restored.step}, to leave it out", problem.record)
        self.loop.callbacks.tell("on_start", self.loop)

    def warn(self, message: str, record: Record | None = None) -> None:
        """Says what training can live with, and keeps it in the logs."""
        place = {"step": self.loop.progress.step + 1, "epoch": self.loop.progress.epoch}
        if record is None:
            message = f"step {place['step']}: {message}"
        warnings.warn(message, TrainingWarning, stacklevel=2)
        self.loop.callbacks.tell("on_failure", {"kind": "failure", **place, **(record or {}), "message": message})

    def _tell(self, problem: Exception, where: str, training: bool) -> None:
        many = self.loop.strategy.size > 1
        if many and is_out_of_memory(problem) and not isinstance(problem, Elsewhere):
            line = f"out of memory in {where}: {smaller_batches(self.loop.recipe)}"
            self.loop.strategy.out_of_memory(line, training)

    def _require_skip(self, problem: Diverged) -> None:
        if self.policy != "skip" or problem.spoiled:
            raise problem
        self.in_a_row += 1
        if self.in_a_row > IN_A_ROW:
            raise problem.after(f"{IN_A_ROW} steps before it were left out already, so the batches are not to blame")

    def _cut(self, window: Sequence[Batch]) -> list[Batch]:
        pieces = [piece for batch in window for piece in self.pieces.cut(batch)]
        if self.pieces.count == 1:
            return pieces
        return [piece for piece in pieces if self.loop.objective.weight(piece)]  # a text may have nothing to predict

    def _not_taken(self, window: Sequence[Batch]) -> Record:
        rates = [self.loop.plan.set(optimizer, self.loop.progress.step) for optimizer in self.loop.optimizers.values()]
        samples = sum(self.loop.objective.weight(batch) for batch in window)
        return {"loss": math.nan, "lr": rates[-1], "grad_norm": math.nan, "samples": samples, "left_out": True}

    def state_dict(self) -> dict[str, Any]:
        parts = {"spikes": self.spikes, "pieces": self.pieces, "val_pieces": self.val_pieces}
        counts = {"left_out": self.left_out, "last": self.last, "in_a_row": self.in_a_row}
        return counts | {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left_out, self.last, self.in_a_row = [*state["left_out"]], state["last"], state["in_a_row"]
        for name in ("spikes", "pieces", "val_pieces"):
            getattr(self, name).load_state_dict(state[name])
