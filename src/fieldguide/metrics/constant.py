"""What the best constant answer costs: the loss that a network has to beat to have learned anything from its inputs."""

from torch.special import entr

from fieldguide.shapes import Float, Int, Tensor


def entropy(counts: Int[Tensor, " c"], smoothing: float = 0.0) -> Float[Tensor, ""]:
    """The least mean cross-entropy (nats) of one answer for all, c classes having been wanted so many times each.

    With label smoothing a share ε of what is wanted is spread over all classes (Szegedy et al. 2016, §7).
    """
    shares = counts.double() / counts.sum()
    return entr((1 - smoothing) * shares + smoothing / len(shares)).sum()
