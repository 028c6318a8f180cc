"""``fieldguide predict RUN IMAGE…``: what a trained run sees in image files."""

from pathlib import Path

from fieldguide.cli.options import Json, Positive
from fieldguide.cli.terminal import say_json


def predict(run: Path, /, *images: Path, top: Positive = 5, device: str = "cpu", json: Json = False) -> None:
    """Classify image files with a trained run.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    images
        Image files; they are prepared exactly as the training images were.
    top
        How many classes to show, the most likely first.
    device
        Where to compute.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.trained import Trained
    from fieldguide.errors import FieldguideError
    from fieldguide.train.run import RunFolder

    if not images:
        raise FieldguideError(f"predict needs image files: fieldguide predict {run} IMAGE…")
    trained = Trained.of(RunFolder.open(run), choose_device(device))
    chances, chosen = trained.logits_of_files(images).softmax(1).topk(min(top, len(trained.classes)))
    answers = [
        {
            "image": str(file),
            "classes": [{"name": trained.classes[c], "probability": p} for c, p in zip(cs, ps, strict=True)],
        }
        for file, cs, ps in zip(images, chosen.tolist(), chances.tolist(), strict=True)
    ]
    if json:
        say_json(answers)
        return
    for answer in answers:
        print(answer["image"])
        for guess in answer["classes"]:
            print(f"  {guess['probability']:7.2%}  {guess['name']}")
