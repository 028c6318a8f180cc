"""What a recipe can have done with gradients between the backward pass and the optimizer: changed, and measured."""

from typing import TYPE_CHECKING, Any

from fieldguide.optim import centralize_gradients, global_norm
from fieldguide.shapes import Tensor
from fieldguide.trace import Record
from fieldguide.train.callbacks import Callback

if TYPE_CHECKING:
    from fieldguide.train.loop import Loop


class Centralized(Callback):
    """Centralizes the gradients of matrices and kernels, after clipping, as the authors' optimizers do.

    Embeddings and tables keep theirs: the optimizer's groups that do not decay are left alone.
    """

    def before_update(self, part: str) -> None:
        for group in self.loop.optimizers[part].param_groups:
            if group["group"] == "decay":
                centralize_gradients(group["params"])


class GradientNoise(Callback):
    """Estimates in each epoch the gradient noise scale B = tr Σ / |G|², and adds it to the epoch's record.

    G is the true gradient and Σ the covariance of that of one sample (or token, where the objective counts tokens).
    Steps of far fewer samples than B gain almost in proportion from more of them, steps of far more hardly anything;
    at B training takes about twice the fewest steps and twice the fewest samples (McCandlish et al. 2018, "An Empirical
    Model of Large-Batch Training", §2.2 and eq. 2.9).

    The norms of two gradients, that of a step's first micro-batch, of b samples, and that of all B of them, give
    estimates without bias: |G|² = (B·|G_B|² − b·|G_b|²)/(B − b), tr Σ = (|G_b|² − |G_B|²)/(1/b − 1/B) (appendix A.1).
    Both are averaged over the epoch before one is divided by the other. Batch norm makes gradients depend on their
    batch in a further way that this cannot tell from noise.
    """

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.steps = self.samples = 0
        self._first: dict[str, Tensor] = {}
        self._share = 1.0

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        self._first = {}

    def on_backward(self, part: str, share: float) -> None:
        if part not in self._first:
            gradients = [p.grad for p in self.loop.parameters[part] if p.grad is not None]
            # Left on the device: a copy to the host now would wait for the backward pass.
            self._first[part] = global_norm(gradients) / (share * self.loop.precision.scaler.get_scale())
            self._share = share

    def on_step(self, record: Record) -> None:
        small = sum(norm.item() ** 2 for norm in self._first.values())
        large, batch = record["grad_norm"] ** 2, record["samples"]
        few = self._share * batch
        self._first = {}
        if few < batch and small + large < float("inf"):  # else the last window has one micro-batch, or fp16 overflowed
            self.signal += (batch * large - few * small) / (batch - few)
            self.noise += (small - large) / (1 / few - 1 / batch)
            self.steps, self.samples = self.steps + 1, self.samples + batch

    def on_epoch(self, record: Record) -> None:
        """Adds ``noise_scale``, in samples: infinite when no gradient shows above the noise, missing without a step."""
        if self.steps:
            scale = max(self.noise, 0.0) / self.signal if self.signal > 0 else float("inf")
            record["noise_scale"], record["batch_advice"] = scale, advice(scale, self.samples / self.steps)
        self.signal = self.noise = 0.0
        self.steps = self.samples = 0

    def state_dict(self) -> dict[str, Any]:
        return {"signal": self.signal, "noise": self.noise, "steps": self.steps, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def advice(scale: float, batch: float) -> str:
    """One sentence on what a noise scale means for a step of so many samples."""
    if scale == float("inf"):
        return f"steps of {batch:.3g} samples are so noisy that no gradient shows through: larger ones pay"
    measured = f"the gradient noise scale is {scale:.3g} and a step has {batch:.3g} samples: "
    if scale > 2 * batch:
        return measured + f"up to about {scale:.3g} a step, more samples save steps almost in proportion"
    if scale < batch / 2:
        return measured + f"about {max(scale, 1):.3g} would do, as the gradient is hardly better with more"
    return measured + "that is a good balance of steps and samples"
