"""Classification by distance: an output unit for each class, which knows what a perfect example looks like.

b batch · f features · k classes.
"""

from random import Random

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

DIGITS = """
..###..  ...#...  .#####.  ####...  .....#.  #######  ...###.  #######  .#####.  .#####.
.#...#.  ..##...  #.....#  ....#..  ....##.  #......  ..#....  #.....#  #.....#  #.....#
#.....#  .#.#...  #.....#  .....#.  ...#.#.  #......  .#.....  ......#  #.....#  #.....#
#.....#  ...#...  ......#  .....#.  ...#.#.  #......  #......  .....#.  #.....#  #.....#
#.....#  ...#...  ......#  ....#..  ..#..#.  #.####.  #......  .....#.  .#...#.  #.....#
#.....#  ...#...  .....#.  .###...  ..#..#.  ##....#  #.###..  ..####.  ..###..  .#....#
#.....#  ...#...  ....#..  ....#..  .#...#.  ......#  ##...#.  ...#...  .#...#.  ..#####
#.....#  ...#...  ...#...  .....#.  .#...#.  ......#  #.....#  ...#...  #.....#  ......#
#.....#  ...#...  ..#....  ......#  #######  ......#  #.....#  ..#....  #.....#  ......#
#.....#  ...#...  .#.....  ......#  .....#.  #.....#  #.....#  ..#....  #.....#  .....#.
.#...#.  ...#...  #......  .....#.  .....#.  .#...#.  .#...#.  .#.....  #.....#  ....#..
..###..  .#####.  #######  #####..  .....#.  ..###..  ..###..  .#.....  .#####.  .###...
"""
"""Ten digits of 12 rows and 7 columns, drawn after the idea of LeCun et al. 1998, fig. 3."""


class RadialBasis(nn.Module):
    """Logits that are minus the squared distance to a fixed code of each class, ``(b, in_features) → (b, classes)``.

    Euclidean radial basis functions (LeCun et al. 1998, eq. 7). The codes hold −1 and +1, and nothing here is trained:
    for ten classes and 84 features they are :data:`DIGITS` with ink as +1, so that what looks alike lies close; for
    other numbers they are arbitrary, always the same and far apart. Cross-entropy of these logits is the paper's
    discriminative loss (eq. 9) without the constant exp(−j) for the class of rubbish. Raises :class:`FieldguideError`
    when there are too few features to tell the classes apart.
    """

    codes: Tensor

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        drawn = (in_features, out_features) == (84, 10)
        self.register_buffer("codes", digit_codes() if drawn else distant_codes(in_features, out_features))

    def forward(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        return -(x[:, None] - self.codes).square().sum(-1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def digit_codes() -> Float[Tensor, "10 84"]:
    """The drawn digits, row by row."""
    rows = [line.split() for line in DIGITS.split("\n") if line]
    pictures = ["".join(row[digit] for row in rows) for digit in range(10)]
    return torch.tensor([[1.0 if pixel == "#" else -1.0 for pixel in picture] for picture in pictures])


def distant_codes(length: int, count: int) -> Float[Tensor, "k f"]:
    """Vectors of −1 and +1, each the one of four random proposals that differs most from those before it."""
    draw, codes = Random(0), list[int]()
    for _ in range(count):
        proposals = [draw.getrandbits(length) for _ in range(4)]
        codes.append(max(proposals, key=lambda new: min(((new ^ old).bit_count() for old in codes), default=0)))
    if len(set(codes)) < count:
        raise FieldguideError(f"RadialBasis: {length} features cannot tell {count} classes apart; use more features")
    return torch.tensor([[1.0 if code >> bit & 1 else -1.0 for bit in range(length)] for code in codes])
