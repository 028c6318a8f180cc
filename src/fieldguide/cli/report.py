"""``fieldguide report RUN``: the figures and the page again, from what the run folder holds."""

from pathlib import Path


def report(run: Path, /) -> None:
    """Draw a run's figures and report.html again.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    """
    from fieldguide.cli.doctor import examined, records_of
    from fieldguide.doctor.cards import cards
    from fieldguide.report import build_report
    from fieldguide.report.records import read_records
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run).path
    read_records(folder)  # first, as it knows when there is nothing to report
    print(build_report(folder, examined(records_of(folder), folder).to_json(), cards()))
