"""``fieldguide models ["pattern"]``: what there is, from the catalog alone."""

from fieldguide import catalog
from fieldguide.cli.options import Json
from fieldguide.cli.terminal import console, say_json, table
from fieldguide.errors import FieldguideError, did_you_mean


def models(pattern: str = "*", /, *, task: str | None = None, json: Json = False):
    """List the architectures.

    Parameters
    ----------
    pattern
        A name, a part of one or a shell pattern such as "resnet*".
    task
        Only architectures for this task, such as "classify".
    """
    tasks = sorted({row.task for row in catalog.ARCHITECTURES})
    if task is not None and task not in tasks:
        raise FieldguideError(f"unknown task {task!r}{did_you_mean(task, tasks)}; known: {', '.join(tasks)}")
    shell = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = set(catalog.list_models(shell, task))
    if not names:
        raise FieldguideError(f"no model matches {pattern!r}{did_you_mean(pattern, catalog.names())}")
    if json:
        say_json([_row(row, name) for row in catalog.ARCHITECTURES for name in row.sizes if name in names])
        return
    shown = table("name", "parameters", "year", "key idea", "paper", right=("parameters",))
    for row in catalog.ARCHITECTURES:
        for index, name in enumerate(n for n in row.sizes if n in names):
            story = (str(row.year), row.key_idea, row.paper) if index == 0 else ()
            shown.add_row(name, f"{row.sizes[name]:,}", *story)
        shown.add_section()
    console().print(shown)


def _row(row: catalog.Architecture, name: str) -> dict[str, object]:
    return {"name": name, "parameters": row.sizes[name], "family": row.family, "task": row.task, "paper": row.paper,
            "year": row.year, "key_idea": row.key_idea, "best_for": row.best_for}  # fmt: skip
