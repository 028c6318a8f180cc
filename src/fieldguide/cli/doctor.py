"""``fieldguide doctor run SCRIPT.py``, ``doctor check RUN``: what is wrong with a training, and why."""

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import say_json
from fieldguide.errors import FieldguideError

if TYPE_CHECKING:
    from fieldguide.doctor.examination import Diagnosis
    from fieldguide.trace import Record

app = App(name="doctor", help_format="plaintext", help_epilogue="")
RUNS = Path("runs")
HELP = {("--help",), ("-h",)}
"""Before a script's name; what follows the name is the script's."""


@app.command(help_flags=[], version_flags=[])
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
    from fieldguide.cli.doctor_page import ending, page
    from fieldguide.doctor.scripts import run_script

    if command[:1] in HELP:
        return app.help_print(["run"]) or 0
    options, target, arguments, module = _split("run", list(command))
    folder = _folder(Path(options.get("--out", RUNS)), Path(target).stem)
    consultation = run_script(target, arguments, module=module, folder=folder)
    if "--json" in options:
        _write(Path(options["--json"]), consultation.diagnosis.to_json())
    notes = [f"the script ended with {consultation.code}"] if consultation.code else []
    end = consultation.doctor.examination.history.end or {}
    print(page(consultation.diagnosis, [*notes, *ending(end)]), f"kept      {folder}", sep="\n", file=sys.stderr)
    return consultation.code


@app.command(help_flags=[], version_flags=[])
def treat(*command: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run a script as `run` does, then try the fixes: [--steps N] [--json FILE] [--out FOLDER] SCRIPT.py [ARGS…].

    When the script has ended, or was interrupted, copies of its training begin anew, one as it was run and one with
    each fix of the likeliest causes, for as many steps each. Which of them closes the gap, on samples that none has
    learned from, is printed on stderr and kept as treatment.json. Nothing of the script is changed.

    Parameters
    ----------
    command
        The script and its arguments, or -m MODULE; before it --steps N, the budget of every trial (100), --json FILE
        for diagnosis and treatment in one document, --out FOLDER for the folder of this run.
    """
    from fieldguide.cli.doctor_page import ending, page, trials
    from fieldguide.doctor.scripts import run_script

    if command[:1] in HELP:
        return app.help_print(["treat"]) or 0
    options, target, arguments, module = _split("treat", list(command), "--steps")
    steps = options.get("--steps", "100")
    if not steps.isdecimal() or not int(steps):
        raise FieldguideError(f"doctor treat: --steps needs a whole number of at least 1, not {steps}")
    folder = _folder(Path(options.get("--out", RUNS)), Path(target).stem)
    consultation = run_script(target, arguments, module=module, folder=folder, treatable=True)
    notes = [f"the script ended with {consultation.code}"] if consultation.code else []
    end = consultation.doctor.examination.history.end or {}
    print(page(consultation.diagnosis, [*notes, *ending(end)]), file=sys.stderr)
    treatment = consultation.doctor.treat(int(steps))
    _write(folder / "treatment.json", treatment.to_json())
    if "--json" in options:
        _write(Path(options["--json"]), consultation.diagnosis.to_json() | {"treatment": treatment.to_json()})
    print(trials(treatment), f"kept      {folder}", sep="\n", file=sys.stderr)
    return consultation.code


@app.command(help_flags=[], version_flags=[])
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

    if command[:1] in HELP:
        return app.help_print(["preflight"]) or 0
    _, target, arguments, module = _split("preflight", list(command))
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
def check(source: Path, /, *, json: Json = False, report: bool = False) -> int:
    """Diagnose a training from what it left: a run folder, a trace (JSON lines) of any trainer, or its recipe alone.

    Parameters
    ----------
    source
        A run's folder, one of doctor run, a .jsonl file with records of the kinds step, sample, eval or setup, or a
        recipe (.toml), whose settings are compared with their usual ranges.
    json
        Print the diagnosis as one JSON document.
    report
        Write report.html into the folder: the signs of health, and every finding.
    """
    from fieldguide.cli.doctor_page import ending, page

    if source.suffix == ".toml":
        print(*(_advice_on(source) or ["every setting lies in its usual range"]), sep="\n")
        return 0
    records = records_of(source)
    diagnosis = examined(records, source)
    if json:
        say_json(diagnosis.to_json())
    else:
        print(page(diagnosis, ending(records[-1])).lstrip("\n"))
        said = _advice_on(source / "recipe.toml") if (source / "recipe.toml").exists() else _advice_in(records)
        print(*(f"advice    {sentence}" for sentence in said), sep="\n", end="\n" * bool(said))
    if report:
        from fieldguide.doctor.cards import cards
        from fieldguide.report import build_report
        from fieldguide.report.health import build_diagnosis

        if not source.is_dir():
            raise FieldguideError(f"{source} is no folder that a report could be written to")
        own = (source / "metrics.jsonl").exists()
        found = diagnosis.to_json(), cards()
        where = build_report(source, *found) if own else build_diagnosis(source, records, *found)
        print(f"report    {where}", file=sys.stderr)
    return 0


def _advice_on(recipe: Path) -> list[str]:
    from dataclasses import asdict

    from fieldguide.doctor.guidelines import advice, of_recipe
    from fieldguide.train.recipe import load_recipe

    return advice(of_recipe(asdict(load_recipe(file=recipe))))


def _advice_in(records: list["Record"]) -> list[str]:
    from fieldguide.doctor.guidelines import advice
    from fieldguide.doctor.history import History

    return advice(History.of(records).setup)


def examined(records: list["Record"], source: Path) -> "Diagnosis":
    """The diagnosis of the records that a folder or a file holds."""
    from fieldguide.doctor.examination import examine

    try:
        return examine(records)
    except KeyError as missing:
        raise FieldguideError(f"{source}: a record lacks the field {missing} that its kind has") from missing


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
    if len(files) > 1:  # a trace of several trainings counts the steps of each
        records.sort(key=lambda record: record.get("step", 0))
    if records[-1].get("kind") != "end":  # other trainers do not say that they have ended
        records.append({"kind": "end", "step": records[-1].get("step", 0)})
    return records


def _require_sound(record: "Record", number: int, file: Path) -> None:
    from fieldguide.doctor.records import flaw

    if wrong := flaw(record):
        raise FieldguideError(f"{file}, record {number}: {wrong}")
    if record.get("kind") in {"step", "sample", "eval", "epoch"} and "step" not in record:
        raise FieldguideError(f"{file}, record {number}: a record of kind {record['kind']} needs a step")


def _split(verb: str, command: list[str], *more: str) -> tuple[dict[str, str], str, list[str], bool]:
    """Our own options, the script or module, its arguments, and whether it is a module."""
    options: dict[str, str] = {}
    while command and command[0] in {"--json", "--out", *more}:
        if len(command) < 2:
            raise FieldguideError(f"doctor {verb}: {command[0]} needs a value")
        options[command[0]], command = command[1], command[2:]
    module = command[:1] == ["-m"]
    command = command[module:]
    if not command or command[0].startswith("-"):
        wrong = f"unknown option {command[0]}; " if command else ""
        raise FieldguideError(
            f"doctor {verb}: {wrong}give a script and its arguments: doctor {verb} [--json FILE] SCRIPT.py …"
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
