"""What the weights of linear layers become while a text is generated: the same numbers, laid out to be read faster.

A step of generation multiplies every weight with a handful of rows, so it takes as long as the weights take to be read.
Each kind here is a tensor that stands where the weight stood and knows a faster product for few rows; for anything else
it is the weight itself. It belongs to one prepared network (:mod:`fieldguide.blocks.decoding.prepared`).

b rows · i inputs · o outputs.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, TypeVar

import torch
from torch.nn.functional import linear

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

Kind = TypeVar("Kind", bound="Weight")

MOST_PARTS = 64
FEW = 32  # rows up to which oneDNN's blocks are the faster layout with AVX2; with AVX-512 they always are
ENGINES = ("x86", "fbgemm", "onednn")  # those that know the kernels used here


class Weight(Tensor):
    """A weight (o, i) that answers ``linear(x, weight, bias)`` itself and is an ordinary tensor everywhere else."""

    @classmethod
    def of(cls: type[Kind], weight: Float[Tensor, "o i"]) -> Kind:
        """Shares memory with ``weight``; what the faster product needs is made when it is first asked for."""
        return weight.detach().as_subclass(cls)

    @cached_property
    def plain(self) -> Tensor:
        return self.as_subclass(Tensor)

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        """Types of weights that the faster product knows on this machine."""
        return (torch.float32,)

    @classmethod
    def suits(cls, weight: Tensor) -> bool:
        """Whether the faster product can replace this weight's."""
        return weight.device.type == "cpu" and weight.dtype in cls.dtypes() and not isinstance(weight, Weight)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is linear and isinstance(args[1], Weight) and not kwargs:
                return args[1].times(args[0], args[2] if len(args) > 2 else None)
            return func(*args, **kwargs or {})

    def times(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        """``linear(x, weight, bias)``, by the faster product where that has the right type."""
        plain = x.dtype == self.dtype and not torch.is_autocast_enabled("cpu")
        return self.product(x, bias) if plain else linear(x, self.plain, bias)

    def product(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        """For rows of the weight's type; each kind has a faster one."""
        return linear(x, self.plain, bias)


class Packed(Weight):
    """The same product up to rounding, in oneDNN's blocks; with AVX2 and one row, every core reads a part of it.

    The blocks are a second copy of the weights for as long as the prepared network lives; the parts need none.
    bfloat16 where the processor has instructions for it.
    """

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)

    @classmethod
    def suits(cls, weight: Tensor) -> bool:
        return super().suits(weight) or (weight.is_cuda and not isinstance(weight, Weight))

    def product(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        if self.on_gpu:
            return super().product(x, bias)
        rows = x.numel() // x.shape[-1]
        if rows == 1 and not wide_vectors():
            count = len(self.parts)
            row = x.reshape(1, 1, -1).expand(count, 1, -1)
            bias_parts = bias if bias is None else bias.view(count, 1, -1)
            y = torch.bmm(row, self.parts) if bias_parts is None else torch.baddbmm(bias_parts, row, self.parts)
            return y.view(*x.shape[:-1], -1)
        if wide_vectors() or (rows <= FEW and torch.backends.mkldnn.is_available()):
            return torch.ops.mkldnn._linear_pointwise(x, self.blocks, bias, "none", [], "")
        return super().product(x, bias)

    @cached_property
    def on_gpu(self) -> bool:
        """There, as it is is fast; what it gains is one product for queries, keys and values together."""
        return self.plain.is_cuda

    @cached_property
    def parts(self) -> Float[Tensor, "p i each"]:
        """As many equal parts as there are threads, or a few more: MKL gives the product with one row to one thread."""
        outputs, threads = len(self.plain), torch.get_num_threads()
        count = next((n for n in range(threads, MOST_PARTS) if outputs % n == 0), 1)
        return self.plain.contiguous().view(count, outputs // count, -1).transpose(1, 2)

    @cached_property
    def blocks(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.plain.contiguous())


class Half(Weight):
    """Weights rounded to 16 bits, multiplied in 32 (FBGEMM): half of the memory to read, an error of about 2e-4.

    Raises FieldguideError where the processor or the build of PyTorch has no such kernel.
    """

    def product(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        y = torch.ops.quantized.linear_dynamic_fp16(x, self.halves)
        return y if bias is None else y.add_(bias)

    @cached_property
    def halves(self) -> Any:
        _require_kernels(self)
        return torch.ops.quantized.linear_prepack_fp16(self.plain.contiguous(), None)


class Int8(Weight):
    """Weights of 8 bits, one scale for each output; rows are rounded to 7 bits on the way (Dettmers et al. 2022, §2).

    A quarter of the memory to read. All rows of a call share one scale, so what a text becomes depends, a little, on
    its neighbours in the batch. Measure what it costs on text of yours. Raises FieldguideError as :class:`Half` does.
    """

    def product(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        # Without the narrower range, pairs of products overflow the 16 bits that AVX2 adds them in.
        y = torch.ops.quantized.linear_dynamic(x, self.bytes, reduce_range=True)
        return y if bias is None else y.add_(bias)

    @cached_property
    def bytes(self) -> Any:
        _require_kernels(self)
        weight = self.plain.contiguous()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # PyTorch means to replace this kind of tensor; the kernel takes no other yet
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(rounded, None)


@cache
def wide_vectors() -> bool:
    """Whether oneDNN's blocks are the fastest layout for any number of rows: with AVX-512, not with AVX2."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()


def _require_kernels(weight: Weight) -> None:
    if torch.backends.quantized.engine not in ENGINES:
        raise FieldguideError(
            f"{type(weight).__name__}: PyTorch multiplies here by {torch.backends.quantized.engine}, which has no such "
            "kernel; it takes an x86 processor with AVX2; leave the weights as they are"
        )
