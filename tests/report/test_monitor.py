"""What a training asked of its machine: only what was measured is drawn, and the story says what bound it."""

import numpy as np
import pytest
from PIL import Image

from fieldguide import trace
from fieldguide.errors import DamagedFile
from fieldguide.report import build_report
from fieldguide.report.monitor import draw_monitor, waited

STEPS = [{"kind": "step", "step": n, "grad_norm": 1.0 / n, "samples": 64, "seconds": 0.5} for n in range(1, 41)]


def samples(share: float, **figures) -> list[dict]:
    return [{"kind": "sample", "step": n, "data_wait": share, **figures} for n in (10, 20, 30, 40)]


def test_nothing_measured_is_no_picture(tmp_path):
    assert draw_monitor([], [], "images", tmp_path / "x.png") is None
    assert draw_monitor([{"kind": "step", "step": 1, "loss": 1.0}] * 3, [], "images", tmp_path / "x.png") is None
    assert not (tmp_path / "x.png").exists()


def test_the_story_says_what_bound_the_training(tmp_path):
    fast = draw_monitor(STEPS, samples(0.02, resident_bytes=3 * 2**29), "images", tmp_path / "x.png")
    slow = draw_monitor(STEPS, samples(0.37, device_bytes=2**31, reserved_bytes=2**32), "tokens", tmp_path / "y.png")
    assert fast
    assert fast.story == (
        "The training waited for data 2.0% of the time; the network bound it. "
        "The median step did 128 images a second. Its process held 1.50 GiB at most."
    )
    assert slow
    assert slow.story.startswith("The training waited for data 37.0% of the time; its loader bound it: workers")
    assert "128 tokens a second. Tensors on the device took 2.00 GiB at most." in slow.story


def test_waiting_is_weighed_by_the_seconds_of_its_steps():
    steps = [{"step": n, "seconds": 3.0 if n <= 10 else 1.0} for n in range(1, 26)]
    assert waited(steps, [{"step": 10, "data_wait": 0.5}, {"step": 20, "data_wait": 0.1}]) == pytest.approx(16 / 40)


@pytest.mark.parametrize("without", ["", "grad_norm", "seconds", "data_wait", "gradients", "resident_bytes"])
def test_a_panel_for_everything_measured(tmp_path, without):
    """Whatever is missing, the rest is drawn, and a panel less shows less ink."""
    some = samples(0.1, resident_bytes=2**30, gradients={"a": 1.0, "b": 0.0})

    def ink(name: str) -> int:
        steps, traced = ([{k: v for k, v in r.items() if k != name} for r in records] for records in (STEPS, some))
        picture = draw_monitor(steps, traced, "images", tmp_path / f"{name}.png")
        assert picture
        return int((np.asarray(Image.open(picture.file).convert("L")) < 250).sum())

    assert ink(without) < ink("") or not without


def test_damaged_figures_are_named(run):
    for wrong in ({"data_wait": "long"}, {"resident_bytes": []}, {"gradients": [1]}, {"gradients": {"a": "b"}}):
        trace.write(run / "trace.jsonl", [{"kind": "sample", "step": 1, **wrong}])
        with pytest.raises(DamagedFile, match=f"trace.jsonl, record 1: {next(iter(wrong))} is "):
            build_report(run)
