"""The pictures and the page of a run, drawn from its folder alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldguide.metrics import confusion_matrix, reliability
from fieldguide.report import story
from fieldguide.report.calibration import draw_reliability, story_of
from fieldguide.report.confusion import draw_confusion
from fieldguide.report.curves import draw_curves
from fieldguide.report.examples import Examples
from fieldguide.report.health import cards_of, draw_health, findings_of, verdict_of
from fieldguide.report.mistakes import draw_mistakes
from fieldguide.report.monitor import draw_monitor
from fieldguide.report.page import Picture, write_page
from fieldguide.report.predictions import Predictions, worst_mistakes
from fieldguide.report.records import read_log, read_records
from fieldguide.report.scatter import Numbers, draw_scatter

__all__ = ["Examples", "Numbers", "Predictions", "build_report", "worst_mistakes"]


def build_report(run: Path, diagnosis: Mapping[str, Any] | None = None, cards: Sequence[Any] = ()) -> Path:
    """Draw ``figures/*.png`` and write ``report.html`` into a run folder, from whatever the run has left so far.

    ``diagnosis`` is what the doctor says of the run, as ``doctor.json`` has it, and ``cards`` what its findings mean.

    Raises FieldguideError when the folder holds no step yet, DamagedFile when its log cannot be read.
    """
    records = read_records(run)
    curves = draw_curves(records, run / "figures" / "curves.png")
    pictures = [Picture("Training", curves, story.of_curves(run, records))]
    samples = read_log(run / "trace.jsonl")
    if health := draw_health(samples, run / "figures" / "health.png"):
        pictures.append(health)
    steps = [r for r in records if r["kind"] == "step"]
    if monitor := draw_monitor(steps, samples, story.unit(run), run / "figures" / "monitor.png"):
        pictures.append(monitor)
    predictions = Predictions.load(run)
    scores = []
    if predictions:
        matrix = confusion_matrix(predictions.predicted, predictions.labels, len(predictions.classes))
        scores = story.class_scores(matrix, predictions.classes)
        file = draw_confusion(matrix, predictions.classes, run / "figures" / "confusion.png")
        pictures.append(Picture("Confusion", file, story.of_confusion(scores, story.unit(run))))
        found = reliability(predictions.probability.clamp(max=1), predictions.predicted == predictions.labels)
        file = draw_reliability(found, run / "figures" / "calibration.png")
        pictures.append(Picture("Confidence", file, story_of(found)))
        if len(predictions.worst_images):
            file = draw_mistakes(predictions, run / "figures" / "mistakes.png")
            pictures.append(Picture("Worst mistakes", file, story.of_mistakes(predictions), is_chart=False))
    if numbers := Numbers.load(run):
        pictures.append(Picture("Prediction", draw_scatter(numbers, run / "figures" / "scatter.png"), numbers.story))
    examples = Examples.load(run)
    return write_page(
        run,
        title=story.title(run),
        subtitle=story.subtitle(run, records),
        tiles=[*story.tiles(records, predictions, story.unit(run)), *([verdict_of(diagnosis)] if diagnosis else [])],
        pictures=pictures,
        scores=scores,
        unit=story.unit(run),
        mistakes=predictions.worst_names if predictions else (),
        tables=[*(findings_of(diagnosis) if diagnosis else []), *([examples] if examples else [])],
        cards=cards_of(diagnosis, cards) if diagnosis else [],
        commands=story.next_commands(run, finished=records[-1]["kind"] == "test"),
    )
