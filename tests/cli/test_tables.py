"""Tables from the command: a number and a class, asked again later."""

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.metrics import r2_score

from fieldguide.cli import run


def write(file: Path, names: list[str], rows) -> Path:
    file.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    d, i = load_diabetes(scaled=False), load_iris()
    rows = [(*x[:1], "woman" if x[1] > 1 else "man", *x[2:], y) for x, y in zip(d.data, d.target, strict=True)]
    write(folder / "diabetes.csv", [*d.feature_names, "progression"], rows)
    names = [i.target_names[c] for c in i.target]
    write(folder / "iris.csv", ["a", "b", "c", "d", "kind"], [(*x, y) for x, y in zip(i.data, names, strict=True)])
    return folder


def told(capsys: pytest.CaptureFixture[str], *command: str | Path) -> Any:
    assert run([str(word) for word in (*command, "--json")]) == 0
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1] if command[0] == "train" else printed)


def test_a_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "diabetes.csv"
    options = ("--target", "progression", "--out", folder, "--epochs", "8", "--batch-size", "16", "--threads", "1")
    done = told(capsys, "train", "mlp_mini", "--data", table, *options)
    assert done["test_r2"] > 0.25, "least squares reaches about 0.4"
    assert "scatter.png" in {path.name for path in (Path(done["run"]) / "figures").iterdir()}
    again = told(capsys, "eval", done["run"])
    assert again["rows"] == 88
    assert again["rmse"] == pytest.approx(done["test_rmse"], rel=1e-5)
    assert again["loss"] == pytest.approx(done["test_loss"], rel=1e-5)
    answers, truth = told(capsys, "predict", done["run"], table), load_diabetes().target
    assert len(answers) == len(truth)
    assert r2_score(truth, [answer["progression"] for answer in answers]) > 0.25


def test_a_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--target", "kind", "--out", folder, "--epochs", "30", "--threads", "1")
    done = told(capsys, "train", "mlp_mini", "--data", folder / "iris.csv", *options)
    assert done["test_accuracy"] > 0.8
    assert [row["name"] for row in told(capsys, "eval", done["run"])["classes"]] == [
        "setosa",
        "versicolor",
        "virginica",
    ]
    new = write(folder / "new.csv", ["d", "c", "b", "a"], [(0.2, 1.4, 3.5, 5.1)])
    assert run(["predict", done["run"], str(new)]) == 0
    assert "setosa" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data PLACE/iris.csv", "name it with --target"),
        ("--target kind", "needs a table"),
        ("--data PLACE/iris.csv --target kin", "did you mean 'kind'"),
        ("--data PLACE/none.csv --target kind", "none.csv cannot be read"),
        ("--data PLACE/iris.csv --target kind --image-size 8", "--image-size is not for mlp_mini"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    options = words.replace("PLACE", str(folder)).split()
    assert run(["train", "mlp_mini", "--out", str(folder), *options]) == 2
    captured = capsys.readouterr()
    error = (captured.err or captured.out).strip()
    assert message in error
    assert error.count("\n") == 0
