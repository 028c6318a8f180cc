"""The picture of a training's health: only what was measured, whatever its size."""

from fieldguide.report.health import draw_health


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
        assert ("the usual range" in picture.story) == (records in (ratios, whole))
        sizes.append(picture.file.stat().st_size)
    assert max(sizes) == sizes[-1]
