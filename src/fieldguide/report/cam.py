"""Where in an image a convolutional network finds its reasons for a class: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", §3.

b batch · c channels · h, w height and width of the image · i, j of a map.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.report.style import FAINT, ORANGE, figure, show_image
from fieldguide.shapes import Float, Int, Tensor, UInt8

WIDTH = 2.3  # inches of a picture
STRONGEST = 0.85
"""Opacity of the largest heat, so that the image can still be seen under it."""


@torch.enable_grad()
def grad_cam(
    model: nn.Module, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None, stage: int = -1
) -> Float[Tensor, "b h w"]:
    """ReLU(Σ_k α_k A_k) of one stage's maps A, α_k the mean gradient of the class's logit over A_k (eq. 1 and 2).

    ``classes`` are the most likely ones when not given; ``stage`` is a position in ``model.features(images)``. Each map
    is scaled to the image's size, bilinearly, and so that its largest value is 1; where nothing speaks for the class it
    is 0 throughout. The network needs ``features``, ``stages`` and ``classify``; its parameters keep their gradients.
    Raises :class:`FieldguideError` for a network without these and for a stage that it lacks.
    """
    if not hasattr(model, "classify"):
        raise FieldguideError(
            f"{getattr(model, 'name', type(model).__name__)} does not classify a map of channels, so Grad-CAM cannot "
            "weigh them; fieldguide look maps shows its features, fieldguide.capture its attention"
        )
    with torch.no_grad():
        maps = model.features(images)  # pyright: ignore[reportCallIssue]
    if not -len(maps) <= stage < len(maps):
        raise FieldguideError(f"stage {stage} is not among the {len(maps)} of this network, 0 to {len(maps) - 1}")
    seen = maps[stage].requires_grad_()
    rest = model.stages[stage % len(maps) + 1 :]  # pyright: ignore[reportIndexIssue]
    logits = model.classify(rest(seen.clone()))  # pyright: ignore[reportCallIssue]  (a layer may overwrite its input)
    chosen = logits.argmax(1) if classes is None else classes
    (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), seen)
    heat = (gradient.mean((2, 3), keepdim=True) * seen.detach()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def draw_cam(image: UInt8[Tensor, "c h w"], heat: Float[Tensor, "n h w"], titles: Sequence[str], file: Path) -> Path:
    """The image, then for each heat map the image in pale grey with the map over it, the more orange the larger."""
    from matplotlib.colors import to_rgb

    height = WIDTH * image.shape[1] / image.shape[2]
    grey = (128 + image.float().mean(0, keepdim=True) / 2).to(torch.uint8)  # pale, so that orange shows on black too
    with figure(file, WIDTH * (len(heat) + 1), height + 0.55) as drawing:
        first, *others = drawing.subplots(1, len(heat) + 1)
        show_image(first, image)
        first.set_title("image", color=FAINT)
        for axis, values, title in zip(others, heat, titles, strict=True):
            show_image(axis, grey)
            orange = torch.tensor(to_rgb(ORANGE)).expand(*values.shape, 3)
            axis.imshow(torch.cat([orange, STRONGEST * values[..., None]], dim=2).numpy(), interpolation="bilinear")
            axis.set_title(title)
            axis.set_xlabel("orange speaks for it", loc="left", fontsize=8)
    return file
