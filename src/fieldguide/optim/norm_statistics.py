"""Running statistics of batch norms for weights that they were not gathered with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class NormStatistics:
    """Takes a model's running means and variances anew, in one pass over the training data.

    Averaged weights give other activations than any that the statistics have seen (Izmailov et al. 2018, "Averaging
    Weights Leads to Wider Optima", §3.1). ``pass_over`` runs the model over the data in its present mode; norms that
    are in eval mode, frozen ones, keep what they have. A model without batch norm costs nothing.
    """

    def __init__(self, model: nn.Module, pass_over: Callable[[], None]):
        self.model, self.pass_over = model, pass_over

    def renew(self) -> None:
        """Sets every statistic to its plain mean over the batches of one pass."""
        norms = self._norms()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain mean
        try:
            if norms:
                self.pass_over()
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """New statistics for the length of a ``with`` block, then the old ones, bit for bit."""
        buffers = [buffer for norm in self._norms() for buffer in norm.buffers(recurse=False)]
        kept = [buffer.clone() for buffer in buffers]
        try:
            self.renew()
            yield
        finally:
            with torch.no_grad():
                for buffer, old in zip(buffers, kept, strict=True):
                    buffer.copy_(old)

    def _norms(self) -> list[_NormBase]:
        norms = [module for module in self.model.modules() if isinstance(module, _NormBase)]
        return [norm for norm in norms if norm.training and norm.track_running_stats]
