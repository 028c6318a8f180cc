"""``fieldguide predict RUN INPUT…``: what a trained run answers."""

from pathlib import Path

from fieldguide.cli.options import Json, Positive
from fieldguide.cli.terminal import say_json


def predict(run: Path, /, *inputs: str, top: Positive = 5, device: str = "cpu", json: Json = False) -> None:
    """Ask a trained run: the classes of images or texts, the translation of sentences, the value of a table's rows.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    inputs
        Image files, texts in quotes or CSV files, as the run was trained; prepared exactly as its training data were.
    top
        How many classes to show, the most likely first.
    device
        Where to compute.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.tasks import trained
    from fieldguide.train.run import RunFolder

    network = trained(RunFolder.open(run), choose_device(device))
    answers = network.predict(inputs, top)
    if json:
        say_json(answers)
        return
    for answer in answers:
        print(network.shown(answer))
