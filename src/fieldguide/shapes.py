"""Shapes as types: ``Float[Tensor, "b n d"]``. Checked by the test runner; plain documentation everywhere else."""

from typing import TYPE_CHECKING, Any

from torch import SymInt, Tensor

__all__ = ["Bool", "Float", "Int", "Size", "Tensor", "UInt8"]

Size = int | SymInt
"""A length that may be left open while a graph is traced."""

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ModuleNotFoundError:

        class _Unchecked:
            """``Float[Tensor, "b n"]`` without jaxtyping is just ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = UInt8 = _Unchecked
