"""Can a language model see the token that it has to predict?"""

from torch import Tensor

from fieldguide.doctor.preflight.twin import Place, Twin, rms
from fieldguide.doctor.records import Test


def causal(twin: Twin) -> Test:
    found = shifted_input(twin)
    if found is None:
        return {"ok": None, "says": "no loss over the input's next tokens"}
    place, tokens = found
    out = by_position(twin.answer, tokens)
    if out is None or twin.wavers > 0:
        return {"ok": None, "says": "the output has no place for every token, or is random"}
    n = tokens.shape[1]
    middle = n // 2
    other = tokens.clone()
    other[:, middle:] = tokens.roll(1, 0)[:, middle:].flip(1)
    moved = (by_position(twin.output((place, other)), tokens) - out)[:, :middle].abs()  # pyright: ignore[reportOptionalOperand]
    figure = moved.max().item() / (rms(out - out.mean()) or 1.0)
    if figure < 1e-3:
        return {"ok": True, "figure": figure, "says": "no position sees later tokens"}
    return {
        "ok": False,
        "figure": figure,
        "says": f"changing the tokens from position {middle} on moves the predictions before it by "
        f"{figure:.0%} of their size",
    }


def shifted_input(twin: Twin) -> tuple[Place, Tensor] | None:
    """The input whose next tokens are the targets; None when there is none."""
    target = twin.batch.target
    if not isinstance(target, Tensor) or target.is_floating_point():
        return None
    for place, tokens in twin.inputs():
        if tokens.is_floating_point() or tokens.ndim != 2 or tokens.shape[1] < 4 or len(tokens) < 2:
            continue
        b, n = tokens.shape
        if target.numel() == b * n:
            following = target.reshape(b, n)[:, :-1]
        elif target.numel() == b * (n - 1):
            following = target.reshape(b, n - 1)
        else:
            continue
        counted = (following >= 0) & (following != following.flatten().mode().values)  # padding equals padding
        if counted.any() and (following == tokens[:, 1:])[counted].float().mean().item() > 0.9:
            return place, tokens
    return None


def by_position(out: Tensor, tokens: Tensor) -> Tensor | None:
    """``(b, n, vocab)`` from whatever shape the loss was given."""
    b, n = tokens.shape
    if out.ndim == 3 and out.shape[0] == b:
        classes_second = out.shape[1] not in {n, n - 1} and out.shape[2] in {n, n - 1}
        return out.transpose(1, 2) if classes_second else out
    if out.ndim == 2 and out.shape[0] in {b * n, b * (n - 1)}:
        return out.reshape(b, -1, out.shape[1])
    return None
