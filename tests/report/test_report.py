"""The pictures and the page, from a run folder made by hand with a real classifier's answers."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from torch.nn.functional import cross_entropy

from fieldguide import trace
from fieldguide.doctor.cards import cards
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.metrics import confusion_matrix
from fieldguide.report import Predictions, build_report, worst_mistakes
from fieldguide.report.curves import smooth
from fieldguide.report.story import class_scores, duration


class Page(HTMLParser):
    """Tags with their attributes, and everything a reader sees."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_complete_run(run: Path) -> None:
    text = build_report(run).read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    drawn = ["calibration.png", "confusion.png", "curves.png", "mistakes.png", "monitor.png"]
    assert sorted(p.name for p in (run / "figures").glob("*.png")) == drawn
    assert len(images) == 5
    assert all(image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 40 for image in images)
    for word in ("95.00%", "optimizer.lr", "packages.torch", "2.15.0", "8 epochs", "prefers-color-scheme"):
        assert word in text
    assert len([tag for tag, _ in page.tags if tag == "tr"]) == 11  # header and ten digits


def test_page_loads_nothing(run: Path) -> None:
    text = build_report(run).read_text()
    addresses = {
        value for _, attributes in Page(text).tags for key, value in attributes.items() if key in ("src", "href")
    }
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))


def test_names_are_escaped(run: Path, digit_predictions) -> None:
    names = ["<script>alert(1)</script>", '"&quot;', *"$2$345678", "$9"]
    digit_predictions(names[:10]).save(run)
    (run / "recipe.toml").write_text('"<b>" = "</dd><script>"\n')
    text = build_report(run).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_what_the_doctor_found_leads_to_its_card(run: Path) -> None:
    fixes = [{"title": "Raise it"}]
    found = {"rule": "P02", "slug": "lr-too-low", "severity": "warning", "evidence": "steps of 1e-7", "fixes": fixes,
             "threshold": "1e-5", "suppressed_by": None, "refute": "Ten times the rate is no faster."}  # fmt: skip
    page = build_report(run, {"verdict": "warning", "findings": [found]}, cards()).read_text()
    assert '<a href="#P02-lr-too-low">P02 lr-too-low</a>' in page
    assert page.count("<article") == page.count('<article id="P02-lr-too-low">') == 1
    for said in ("<dt>doctor</dt><dd>warning", "steps of 1e-7", "1e-5", "Raise it", "Ten times the rate is no faster."):
        assert said in page
    healthy = build_report(run, {"verdict": "healthy", "findings": []}, cards()).read_text()
    assert "<dt>doctor</dt><dd>healthy" in healthy
    assert "<article" not in healthy


def test_unfinished_run(tmp_path: Path, write_log) -> None:
    write_log(tmp_path, epochs=3)
    records = [r for r in trace.read(tmp_path / "metrics.jsonl") if r["kind"] == "step"][:25]
    trace.write(tmp_path / "metrics.jsonl", records)
    text = build_report(tmp_path).read_text()
    assert "not finished: 25 steps so far" in text
    assert f"fieldguide train --resume {tmp_path}" in text


def test_all_right_shows_no_mistakes(run: Path, digit_predictions) -> None:
    kept = digit_predictions()
    none = torch.tensor([], dtype=torch.int64)
    Predictions(
        classes=kept.classes, labels=kept.labels, predicted=kept.labels, probability=kept.probability,
        worst=none, worst_images=torch.zeros(0, 1, 8, 8, dtype=torch.uint8), worst_names=(),
    ).save(run)  # fmt: skip
    text = build_report(run).read_text()
    assert "All images are right" in text
    assert "Worst mistakes" not in text


def test_many_classes_and_colour(run: Path) -> None:
    n, k = 600, 120
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    logits = torch.randn(n, k, generator=generator) + 3 * torch.eye(k)[labels]
    worst = worst_mistakes(logits, labels)
    probability, predicted = logits.softmax(1).max(1)
    Predictions(
        classes=[f"a rather long class name {i}" for i in range(k)], labels=labels, predicted=predicted,
        probability=probability, worst=worst, worst_names=[f"{i}.png" for i in worst.tolist()],
        worst_images=torch.randint(0, 256, (len(worst), 3, 20, 12), generator=generator, dtype=torch.uint8),
    ).save(run)  # fmt: skip
    build_report(run)
    width, height = Image.open(run / "figures" / "confusion.png").size
    assert max(width, height) < 2000


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FieldguideError, match="nothing to report"):
        build_report(tmp_path)


def test_damaged_files_are_named(run: Path) -> None:
    file = run / "figures" / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedFile, match=r"predictions\.safetensors"):
        build_report(run)
    (run / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(DamagedFile, match="line 1"):
        build_report(run)


def test_predictions_come_back(run: Path, digit_predictions) -> None:
    kept, read = digit_predictions(), Predictions.load(run)
    assert read is not None
    for name in ("labels", "predicted", "probability", "worst", "worst_images"):
        assert torch.equal(getattr(kept, name), getattr(read, name))
    assert list(read.classes) == list(kept.classes)


def test_worst_mistakes_have_the_largest_loss() -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(200) % 5
    worst = worst_mistakes(logits, labels, most=10)
    losses = cross_entropy(logits, labels, reduction="none")
    wrong = logits.argmax(1) != labels
    expected = sorted(losses[wrong].tolist(), reverse=True)[:10]
    assert losses[worst].tolist() == pytest.approx(expected)
    assert wrong[worst].all()
    assert len(worst_mistakes(torch.eye(5), torch.arange(5))) == 0


def test_scores_equal_scikit_learn(digit_predictions) -> None:
    kept = digit_predictions()
    scores = class_scores(confusion_matrix(kept.predicted, kept.labels, 10), kept.classes)
    expected = precision_recall_fscore_support(kept.labels, kept.predicted)
    for column, name in enumerate(("precision", "recall", "f1", "support")):
        assert [getattr(score, name) for score in scores] == pytest.approx(expected[column].tolist())


def test_smoothing_lags_nothing_and_halves_noise() -> None:
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)
    assert smooth([]) == []
    assert smooth([1.0, float("inf"), 3.0], share=0.7) == pytest.approx([1.0, 2.0, 3.0])
    line = [0.5 * i for i in range(1000)]
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(2))
    smoothed = torch.tensor(smooth(noise.tolist()))[200:]
    assert smoothed.std() < noise.std() / 4


def test_durations() -> None:
    assert [duration(s) for s in (0.42, 59.9, 200.0, 7500.0)] == ["0.4 s", "59.9 s", "3 min 20 s", "2 h 5 min"]


def test_run_with_losses_that_are_no_numbers(tmp_path: Path, write_log) -> None:
    write_log(tmp_path, epochs=2)
    records = list(trace.read(tmp_path / "metrics.jsonl"))
    records[5] |= {"loss": float("nan")}
    records[7] |= {"loss": float("inf")}
    trace.write(tmp_path / "metrics.jsonl", records)
    (tmp_path / "environment.json").write_text(
        json.dumps({"job": {"model": "resnet_mini", "data": "/some/where/cats"}})
    )
    assert "resnet_mini on cats" in build_report(tmp_path).read_text()
