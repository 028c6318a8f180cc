"""Grad-CAM against its definition worked out by hand, and its pictures."""

import pytest
import torch
from matplotlib.image import imread
from torch import nn

from fieldguide import catalog
from fieldguide.blocks.conv import FeatureInfo, Stages
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.report.cam import draw_cam, grad_cam
from fieldguide.report.style import DOTS_PER_INCH

CNNS = [row for row in catalog.ARCHITECTURES if row.image and hasattr(create_model(f"{row.family}_mini"), "classify")]


class Small(nn.Module):
    """Convolutions, global average, linear: the network whose Grad-CAM is known in closed form."""

    def __init__(self, in_channels: int = 1, channels: int = 6, classes: int = 4):
        super().__init__()
        self.stages = Stages(nn.Conv2d(in_channels, 5, 3, padding=1), nn.Conv2d(5, channels, 2, stride=2))
        self.feature_info = (FeatureInfo(5, 1), FeatureInfo(channels, 2))
        self.pool, self.head = GlobalAverage(), nn.Linear(channels, classes)

    def features(self, x):
        return self.stages.maps(x)

    def classify(self, x):
        return self.head(self.pool(x))

    def forward(self, x):
        return self.classify(self.stages(x))


def scaled(heat: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    heat = nn.functional.interpolate(heat.relu()[:, None], size=size, mode="bilinear")[:, 0]
    return heat / heat.amax((1, 2), keepdim=True)


def test_linear_after_global_average_is_the_class_activation_map():
    """There α is W[class] / (h·w) (Selvaraju et al. 2017, §3.1: CAM is this case of Grad-CAM)."""
    model, x = Small().double().eval(), torch.randn(3, 1, 12, 10, dtype=torch.float64)
    classes, last = torch.tensor([2, 0, 3]), model.features(x)[-1].detach()
    alpha = model.head.weight.detach()[classes] / (last.shape[2] * last.shape[3])
    expected = scaled(torch.einsum("bk,bkij->bij", alpha, last), (12, 10))
    torch.testing.assert_close(grad_cam(model, x, classes), expected, rtol=0, atol=1e-12)
    likeliest = model(x).argmax(1)
    assert torch.equal(grad_cam(model, x), grad_cam(model, x, likeliest))


def test_an_earlier_stage_by_finite_differences():
    model, x, target = Small().double().eval(), torch.randn(1, 1, 6, 6, dtype=torch.float64), 1
    first = model.features(x)[0].detach()
    nudge, gradient = 1e-6, torch.zeros_like(first)
    for place in range(first.numel()):
        moved = [first.clone() for _ in range(2)]
        moved[0].view(-1)[place] += nudge
        moved[1].view(-1)[place] -= nudge
        up, down = (model.classify(model.stages[1](m))[0, target].item() for m in moved)
        gradient.view(-1)[place] = (up - down) / (2 * nudge)
    expected = scaled((gradient.mean((2, 3), keepdim=True) * first).sum(1), (6, 6))
    for stage in (0, -2):
        torch.testing.assert_close(grad_cam(model, x, torch.tensor([target]), stage), expected, rtol=0, atol=1e-6)


def test_heat_lies_where_the_reason_lies():
    """Class 1 is brightness and nothing else: its heat is on the bright patch, wherever that is."""
    model = Small(channels=1, classes=2).eval()
    with torch.no_grad():
        for layer in model.stages:
            layer.weight.zero_()
            layer.bias.zero_()
        model.stages[0].weight[0, 0, 1, 1] = model.stages[1].weight[0, 0, 0, 0] = 1
        model.head.weight[:] = torch.tensor([[-1.0], [1.0]])
    for top, left in [(0, 0), (16, 8), (24, 24)]:
        x = torch.zeros(1, 1, 32, 32)
        x[..., top : top + 8, left : left + 8] = 1
        heat = grad_cam(model, x, torch.tensor([1]))[0]
        near = torch.zeros(32, 32, dtype=torch.bool)
        near[max(top - 2, 0) : top + 10, max(left - 2, 0) : left + 10] = True  # bilinear scaling reaches further
        assert heat[top + 2 : top + 6, left + 2 : left + 6].min() == 1
        assert heat[~near].max() == 0
        assert not grad_cam(model, x, torch.tensor([0])).any(), "nothing speaks for darkness, and 0/0 is not shown"


@pytest.mark.parametrize("row", CNNS, ids=lambda row: row.family)
def test_every_cnn_at_every_stage(row):
    model = create_model(f"{row.family}_mini", in_channels=3).double().eval()
    side = row.mini_image[1]
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    maps, classes = [m.detach() for m in model.features(x)], torch.tensor([7, 1])
    for stage, seen in enumerate(maps):
        # The same gradient by another way: hooks on the whole network, from the image on.
        kept = {}
        hook = model.stages[stage].register_forward_hook(lambda module, args, out, kept=kept: kept.update(out=out))
        logits = model.classify(model.features(x)[-1])
        hook.remove()
        torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(model.classify(model.stages[stage + 1 :](seen.clone())), logits, rtol=0, atol=1e-10)
        (gradient,) = torch.autograd.grad(logits[range(2), classes].sum(), kept["out"])
        heat = (gradient.mean((2, 3), keepdim=True) * seen).sum(1).relu()
        heat = nn.functional.interpolate(heat[:, None], size=(side, side), mode="bilinear")[:, 0]
        expected = heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-300)
        found = grad_cam(model, x, classes, stage)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
        assert not found.requires_grad
        assert 0 <= found.min() <= found.max() <= 1
    assert all(p.grad is None for p in model.parameters())


def test_what_has_no_map_to_classify_is_refused():
    with pytest.raises(FieldguideError, match=r"vit_mini .* look maps"):
        grad_cam(create_model("vit_mini").eval(), torch.zeros(1, 1, 32, 32))
    with pytest.raises(FieldguideError, match="stage 2 is not among the 2 of this network, 0 to 1"):
        grad_cam(Small().eval(), torch.zeros(1, 1, 8, 8), stage=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_orange_where_the_heat_is(channels, tmp_path):
    image = torch.zeros(channels, 16, 16, dtype=torch.uint8)
    heat = torch.zeros(2, 16, 16)
    heat[0, :, 8:], heat[1, 8:] = 1, 1
    pixels = imread(draw_cam(image, heat, ["a, 90%", "b, 9%"], tmp_path / "deep" / "cam.png"))[..., :3]
    height, width, _ = pixels.shape
    assert width == pytest.approx(3 * 2.3 * DOTS_PER_INCH, abs=1)
    assert height < width / 2
    orange = (pixels[..., 0] > 0.7) & (pixels[..., 2] < 0.3)
    thirds = [orange[:, part * width // 3 : (part + 1) * width // 3] for part in range(3)]
    assert not thirds[0].any()
    columns = thirds[1].nonzero()[1] if thirds[1].any() else []
    rows = thirds[2].nonzero()[0]
    assert min(columns) > width / 3 * 0.45
    assert min(rows) > height * 0.45
    assert thirds[1].sum() == pytest.approx(thirds[2].sum(), rel=0.05)
    assert thirds[1].mean() > 0.25
