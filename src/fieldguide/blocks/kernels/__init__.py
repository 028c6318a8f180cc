"""One file per way of computing attention. ``attend`` picks among the exact ones; the cores use the others by name.

A kernel says what it cannot honour (:meth:`Kernel.refusal`) and how many score pairs it would compute
(:meth:`Kernel.pairs`); called directly with something it cannot honour, it raises and names itself.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.masks import Full, Mask
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

TROUBLE = 2**16
"""What a special kernel costs beside its pairs, in pairs: shorter sequences are cheaper without one."""


@dataclass(frozen=True)
class Case:
    """What a kernel is chosen by."""

    mask: Mask
    q_len: int
    k_len: int
    device: str = "cpu"
    bias: bool = False
    learned: bool = False
    dropout: bool = False
    gradients: bool = False
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, q: Tensor, k: Tensor, mask: Mask, bias: Bias | None, dropout: float) -> "Case":
        gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
        learned = bias is not None and torch.is_grad_enabled() and bias.learned
        return cls(
            mask, q.shape[2], k.shape[2], q.device.type, bias is not None, learned, dropout > 0, gradients, q.dtype
        )

    @property
    def pairs(self) -> int:
        """Pairs of the whole score matrix."""
        return self.q_len * self.k_len


class Kernel(ABC):
    """One way of computing softmax attention; a value without state."""

    name: str
    cost: str
    """Time, as the table of complexities writes it."""

    @abstractmethod
    def refusal(self, case: Case) -> str | None:
        """Why this kernel cannot do it; None when it can."""

    @abstractmethod
    def reason(self, case: Case) -> str:
        """Why this kernel is a good way to do it."""

    def pairs(self, case: Case) -> int:
        """How many score pairs it would compute."""
        return case.pairs

    @abstractmethod
    def compute(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float | None, dropout: float
    ) -> Tensor:
        """Attention, for a case the kernel does not refuse."""

    def __call__(
        self,
        q: Float[Tensor, "b h q c"],
        k: Float[Tensor, "b g k c"],
        v: Float[Tensor, "b g k e"],
        mask: Mask = Full(),
        bias: Bias | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "b h q e"]:
        """Attention by this kernel and no other; raises FieldguideError for what it cannot honour."""
        refusal = self.refusal(Case.of(q, k, mask, bias, dropout))
        if refusal:
            raise FieldguideError(f"kernel {self.name!r} cannot do this: {refusal}; attend() picks one that can")
        return self.compute(q, k, v, mask, bias, scale, dropout)
