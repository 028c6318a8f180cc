"""``fieldguide doctor run SCRIPT.py``, ``doctor check RUN``: what is wrong with a training, and why."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import say_json
from fieldguide.errors import FieldguideError

if TYPE_CHECKING:
    from fieldguide.trace import Record

app = App(name="doctor", help_format="plaintext", help_epilogue="")
RUNS = Path("runs")


@app.command
def run(*command: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run any PyTorch script under observation: [--json FILE] [--out FOLDER] SCRIPT.py [ARGS…], or -m MODULE [ARGS…].

    The script's behaviour, random numbers, output and exit code stay its own; what was found is printed after it on
    stderr, and kept with everything that was measured in runs/doctor-SCRIPT-N.

    Parameters
    ----------
    command
        The script and its arguments, after options of the doctor's own: --json FILE writes the diagnosis there too,
        --out FOLDER is where the folder of this run is made.
    """
    import sys

    from fieldguide.cli.doctor_page import page
    from fieldguide.doctor.scripts import run_script

    options, target, arguments, module = _split(list(command))
    folder = _folder(options.get("--out", RUNS), Path(target).stem)
    consultation = run_script(target, arguments, module=module, folder=folder)
    if "--json" in options:
        _write(options["--json"], consultation.diagnosis.to_json())
    note = f"the script ended with {consultation.code}" if consultation.code else ""
    print(page(consultation.diagnosis, note), f"kept      {folder}", sep="\n", file=sys.stderr)
    return consultation.code


@app.command
def preflight(*command: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Check a script's training before its first step, and stop there: SCRIPT.py [ARGS…], or -m MODULE [ARGS…].

    Parameters
    ----------
    command
        The script and its arguments. It runs until its optimizer would take the first step.
    """
    from fieldguide.cli.terminal import console, table
    from fieldguide.doctor.preflight.checklist import checklist
    from fieldguide.doctor.scripts import run_script

    _, target, arguments, module = _split(list(command))
    consultation = run_script(target, arguments, module=module, first_step_only=True)
    history, findings = consultation.doctor.examination.history, consultation.diagnosis.findings
    if not history.setup:
        raise FieldguideError(f"{target}: no optimizer of PyTorch came to a first step: there is no training to check")
    shown = table("", "point", "what is known")
    for point in checklist(history, findings):
        shown.add_row({True: "✓", False: "✗", None: "·"}[point.ok], point.title, point.evidence)
    console().print(shown)
    return 0


@app.command
def check(source: Path, /, *, json: Json = False) -> int:
    """Diagnose a training from what it left: a run folder, or a trace (JSON lines) of any trainer.

    Parameters
    ----------
    source
        A run's folder, one of doctor run, or a .jsonl file with records of the kinds step, sample, eval or setup.
    json
        Print the diagnosis as one JSON document.
    """
    from fieldguide.cli.doctor_page import page
    from fieldguide.doctor.examination import examine

    diagnosis = examine(records_of(source))
    if json:
        say_json(diagnosis.to_json())
    else:
        print(page(diagnosis).lstrip("\n"))
    return 0


def records_of(source: Path) -> list["Record"]:
    """The records that a folder or a file holds, in the order of their steps."""
    from fieldguide.trace import read

    if source.is_dir():
        files = [source / name for name in ("metrics.jsonl", "trace.jsonl") if (source / name).exists()]
        if not files:
            raise FieldguideError(f"{source} holds no metrics.jsonl and no trace.jsonl: it is no run to diagnose")
    elif source.exists():
        files = [source]
    else:
        raise FieldguideError(f"there is no run and no trace at {source}")
    try:
        records = [record for file in files for record in read(file)]
    except (ValueError, UnicodeDecodeError) as problem:
        raise FieldguideError(f"not a trace: {problem}") from problem
    for number, record in enumerate(records, start=1):
        _require_sound(record, number, files[0])
    if not any(record.get("kind") in {"step", "sample", "epoch", "setup", "end"} for record in records):
        raise FieldguideError(f"{files[0]} holds no record of a kind that is known (step, sample, eval, epoch, setup)")
    records.sort(key=lambda record: record.get("step", 0))
    if records[-1].get("kind") != "end":  # other trainers do not say that they have ended
        records.append({"kind": "end", "step": records[-1].get("step", 0)})
    return records


def _require_sound(record: "Record", number: int, file: Path) -> None:
    for name in ("step", "loss", "lr", "grad_norm", "update_ratio"):
        value = record.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | dict):
            raise FieldguideError(f"{file}, record {number}: {name} is {value!r} and not a number")
    if record.get("kind") in {"step", "sample", "eval"} and "step" not in record:
        raise FieldguideError(f"{file}, record {number}: a record of kind {record['kind']} needs a step")


def _split(command: list[str]) -> tuple[dict[str, Path], str, list[str], bool]:
    """Our own options, the script or module, its arguments, and whether it is a module."""
    options: dict[str, Path] = {}
    while command and command[0] in {"--json", "--out"}:
        if len(command) < 2:
            raise FieldguideError(f"doctor run: {command[0]} needs a value")
        options[command[0]], command = Path(command[1]), command[2:]
    module = command[:1] == ["-m"]
    command = command[module:]
    if not command or command[0].startswith("-"):
        wrong = f"unknown option {command[0]}; " if command else ""
        raise FieldguideError(
            f"doctor run: {wrong}give a script and its arguments: doctor run [--json FILE] SCRIPT.py …"
        )
    if not module and not Path(command[0]).is_file():
        raise FieldguideError(f"there is no script {command[0]}")
    return options, command[0], command[1:], module


def _folder(root: Path, name: str) -> Path:
    """A new ``doctor-NAME-N`` in ``root``."""
    number = 1
    while True:
        folder = root / f"doctor-{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _write(path: Path, value: Any) -> None:
    path.write_text(jsonlib.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
