"""A diagnosis on the terminal: the verdict, what it rests on, and what to do."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldguide.doctor.examination import Diagnosis
    from fieldguide.doctor.finding import Finding
    from fieldguide.doctor.treatment import Treatment
    from fieldguide.trace import Record

WIDTH = 100


def page(diagnosis: "Diagnosis", notes: Sequence[str] = ()) -> str:
    """The whole page as text, without colour."""
    lines = ["", f"doctor    {headline(diagnosis)}"]
    for note in notes:
        lines += indented(note, "          ")
    main = [finding for finding in diagnosis.findings if finding.suppressed_by is None and finding.severity != "info"]
    rest = [finding for finding in diagnosis.findings if finding not in main]
    for place, finding in enumerate(main[:3], start=1):
        lines += ["", *_finding(finding, place)]
    if len(main) > 3:
        rest = main[3:] + rest
    if rest:
        lines += ["", "also seen"]
    for finding in rest:
        why = f" (explained by {finding.suppressed_by})" if finding.suppressed_by else ""
        lines += indented(f"{finding.rule} {finding.slug}{why}: {finding.evidence}", "  ")
    if diagnosis.findings:
        lines += ["", "cards     fieldguide lookup symptom NAME says what a finding means, and when it is wrong"]
    if "share" in diagnosis.overhead:
        lines += [
            "",
            f"observed  {diagnosis.step} optimizer steps, at a cost of {diagnosis.overhead['share']:.1%} of the time",
        ]
    return "\n".join(lines)


def trials(treatment: "Treatment") -> str:
    """What each fix came to, and what is left for a person to do."""
    lines = [""]
    if treatment.obstacle:
        lines += indented(f"nothing was tried: {treatment.obstacle}", "treatment ")
    else:
        lines += indented(
            f"{treatment.steps} steps of each fix on copies; loss on held-out samples: {_loss(treatment.before)} at "
            f"the beginning, {_loss(treatment.control)} as it was run",
            "treatment ",
        )
        lines += [f"{_loss(trial.loss):>12}  {trial.dose}  ({trial.cause})" for trial in treatment.trials]
        winner = treatment.winner
        lines += indented(
            f"{winner.dose}: {winner.fix}" if winner else "no fix is clearly better than none", "winner    "
        )
    for cause, fix in treatment.for_you:
        lines += indented(f"{fix} ({cause})", "for you   ")
    return "\n".join(lines)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def ending(end: "Record") -> list[str]:
    """What the last record of a run says: why there was nothing to judge, or what was seen of a crash."""
    notes = []
    if not end.get("step") and "networks" in end and not end.get("error"):
        if not end["networks"]:
            notes.append("no network of PyTorch was called")
        elif not end.get("batches"):
            notes.append("a network was called, but backward never was")
        else:
            notes.append(f"backward was called {end['batches']} times")
    if end.get("where"):
        notes += ["", f"it crashed with {end['error']}", *(f"  {line}" for line in end["where"].splitlines())]
    return notes


def headline(diagnosis: "Diagnosis") -> str:
    count = sum(finding.suppressed_by is None and finding.severity != "info" for finding in diagnosis.findings)
    if not diagnosis.step:
        return (
            "no optimizer of PyTorch took a step: there is no training to judge"
            if not count
            else _found(diagnosis, count)
        )
    if diagnosis.verdict == "healthy":
        short = ", too few to say more" if diagnosis.step < 20 else ""
        return f"healthy: nothing wrong was seen in {diagnosis.step} steps{short}"
    return _found(diagnosis, count)


def _found(diagnosis: "Diagnosis", count: int) -> str:
    if diagnosis.step < 20:
        return f"{diagnosis.verdict}: {count} finding{'s' * (count > 1)} in {diagnosis.step} steps, too few to say more"
    likeliest = f", the likeliest cause is {diagnosis.causes[0]}" if diagnosis.causes else ""
    return f"{diagnosis.verdict}: {count} finding{'s' * (count > 1)} in {diagnosis.step} steps{likeliest}"


def _finding(finding: "Finding", place: int) -> list[str]:
    head = f"{place}. {finding.slug}  ({finding.rule}, {finding.severity}, step {finding.step}"
    lines = [head + (f", likelihood {finding.likelihood:.0%})" if finding.likelihood else ")")]
    lines += indented(finding.evidence, "   seen     ")
    if finding.threshold:
        lines += indented(finding.threshold, "   limit    ")
    for fix in finding.fixes[:3]:
        lines += indented(fix.title, "   do       ")
    if finding.refute:
        lines += indented(f"it would be wrong if: {finding.refute}", "   test     ")
    return lines


def indented(text: str, first: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first)) or [first.rstrip()]
