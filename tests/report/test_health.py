"""The picture of a training's health: only what was measured, whatever its size."""

from fieldguide.report.health import draw_health
from fieldguide.report.healthy import DEAD, FLOW, LOSS, UPDATES


def record(step: int, **figures) -> dict:
    return {"kind": "sample", "step": step, **figures}


def test_nothing_measured_is_no_picture(tmp_path):
    assert draw_health([], tmp_path / "x.png") is None
    assert draw_health([record(1, update_ratio=0.0), record(2, loss=float("nan"))], tmp_path / "x.png") is None
    assert not (tmp_path / "x.png").exists()


def test_every_part_alone_and_all_together_are_drawn(tmp_path):
    steps = [{"kind": "step", "step": n, "loss": 2.0 / n} for n in range(1, 30)]
    ratios = [record(n, update_ratio=1e-3) for n in range(1, 6)]
    layers = {"0": {"grad": 0.1, "weight": 1.0}, "1": {"grad": 0.0, "weight": 1.0, "dead": 0.5}}
    whole = [*steps, *ratios, record(7, layers=layers, baseline=1.0)]
    sizes = []
    for place, records in enumerate((steps, ratios, whole[-1:], whole)):
        picture = draw_health(records, tmp_path / f"{place}.png")
        assert picture is not None
        assert ("its updates over its weights" in picture.story) == (records in (ratios, whole))
        assert "healthy trainings" in picture.story
        sizes.append(picture.file.stat().st_size)
    assert max(sizes) == sizes[-1]


def test_what_is_well_lies_in_the_grey_and_what_is_sick_does_not():
    """The middle tenth of a healthy training's figures, and those of one that stands still."""
    (low, high), (least, most) = LOSS[-1], UPDATES[5]
    assert low < 0.1 < high < 1.0
    assert least < 1e-2 < most
    assert not least < 1e-6 < most
    assert all(a < b for band in (LOSS, UPDATES, FLOW, DEAD) for a, b in band)
    assert [high for _, high in LOSS] == sorted((high for _, high in LOSS), reverse=True)
