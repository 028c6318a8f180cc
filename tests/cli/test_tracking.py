"""``fieldguide train --log``: what another program needs is asked for before anything begins."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from fieldguide.cli import run

TRAIN = ["train", "mlp", "--epochs", "1", "--threads", "1", "--log", "tensorboard"]


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_what_is_not_installed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*TRAIN, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == 'error: --log tensorboard needs the extra "track": pip install "fieldguide[track]"'
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed (the extra track)")
def test_the_log_lies_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i},{2 * i}\n" for i in range(60)))
    train = [*TRAIN, "--data", str(tmp_path / "t.csv"), "--target", "y", "--out", str(tmp_path), "--name", "r"]
    assert run(train) == 0
    assert [*(tmp_path / "r" / "tensorboard").glob("events.out.tfevents.*")]
    assert "log" not in (tmp_path / "r" / "recipe.toml").read_text()
