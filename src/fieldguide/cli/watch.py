"""``fieldguide watch RUN``: a page on this machine that shows a training while it goes on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from fieldguide.trace import Record

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


def watch(run: Path, /, *, port: Port = 0) -> None:
    """Show a training on a page that follows it: progress, curves, speed, memory, what the doctor has found so far.

    Only this machine can open the page (127.0.0.1), it loads nothing from elsewhere, and the run is only read. Ctrl-C
    ends it; the training does not notice.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1: finished, under way or not begun. One of doctor run, too.
    port
        Where to serve; 0 takes any free one.
    """
    from fieldguide.report.live import Live
    from fieldguide.report.live_server import LiveServer
    from fieldguide.train.run import RunFolder

    if not (run / "trace.jsonl").exists():
        run = RunFolder.open(run).path
    with LiveServer(Live(run, _Ward), port) as server:
        print(f"watching {run} at {server.address}; Ctrl-C ends it", flush=True)
        server.serve_forever()


class _Ward:
    """The doctor, who reads along and stops at a record that is none."""

    def __init__(self) -> None:
        from fieldguide.doctor.examination import Examination

        self.examination = Examination()
        self.problem: str | None = None

    def add(self, record: "Record") -> None:
        from fieldguide.doctor.records import flaw

        if self.problem is None and (wrong := flaw(record)):
            self.problem = f"stopped reading at step {record['step']}: {wrong}"
        if self.problem is None:
            try:
                self.examination.add(record)
            except KeyError as missing:
                self.problem = f"stopped reading at step {record['step']}: a record lacks {missing}"

    def verdict(self) -> dict[str, Any]:
        return {**self.examination.diagnosis().to_json(), "problem": self.problem}
