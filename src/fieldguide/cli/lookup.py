"""``fieldguide lookup mask "Causal() & Window(64)"``, ``lookup model NAME``, ``lookup optimizer NAME``: shown."""

from pathlib import Path

from cyclopts import App

from fieldguide.cli.options import Positive

app = App(name="lookup", help_format="plaintext", help_epilogue="")

MARGIN = 10
"""Columns of the terminal that the frame and its labels take."""


@app.command
def model(name: str | None = None, /) -> None:
    """What is known of an architecture: its idea, paper, use, public weights and sizes, as Markdown.

    Parameters
    ----------
    name
        A family or a size, such as resnet or resnet50; without it, a page of all.
    """
    from fieldguide.catalog import ARCHITECTURES, names
    from fieldguide.cli.cards import card, cards
    from fieldguide.errors import unknown

    rows = [row for row in ARCHITECTURES if name is None or name == row.family or name in row.sizes]
    if not rows:
        known = [row.family for row in ARCHITECTURES]
        raise unknown("architecture", str(name), [*known, *names()], "`fieldguide models` lists all")
    print(cards(rows) if name is None else card(rows[0]), end="")


@app.command
def optimizer(name: str | None = None, /) -> None:
    """What an optimizer does: its equation, what it is for, its memory, numbers and source, as Markdown.

    Parameters
    ----------
    name
        As in a recipe, such as adamw; or what goes with any of them: ema, swa, lookahead, sharpness. Without it, all.
    """
    from fieldguide.cli.optimizer_cards import CARDS, card, cards
    from fieldguide.errors import unknown

    found = [entry for entry in CARDS if entry.name == name]
    if name is not None and not found:
        raise unknown("optimizer", name, [entry.name for entry in CARDS], "`fieldguide lookup optimizer` shows all")
    print(card(found[0]) if found else cards(), end="")


@app.command
def symptom(name: str | None = None, /) -> None:
    """What a finding of the doctor means: what it looks for, why, usual causes, false alarms and fix, as Markdown.

    Parameters
    ----------
    name
        Its slug or code, such as lr-too-high or P01; without it, a page of all.
    """
    from fieldguide.doctor.cards import cards, page
    from fieldguide.errors import unknown

    known = cards()
    found = [card for card in known if name is None or name.lower() in {card.slug, card.code.lower()}]
    if not found:
        raise unknown("symptom", str(name), [card.slug for card in known], "`fieldguide lookup symptom` shows all")
    print(page(found) if name is None else found[0], end="")


@app.command
def mask(expression: str, /, *, length: Positive = 64, png: Path | None = None) -> None:
    """Draw who may see whom under an attention mask, and say how `attend` would compute it.

    Parameters
    ----------
    expression
        Masks joined with & (both), | (either) and ~ (not), such as "Causal() & Window(8)".
    length
        How many tokens.
    png
        Write the picture to this file as well.
    """
    from fieldguide.blocks.attend import explain
    from fieldguide.blocks.mask_text import parse
    from fieldguide.cli.terminal import console
    from fieldguide.errors import FieldguideError
    from fieldguide.report.mask_picture import mask_png, mask_text

    wanted = parse(expression)
    if png and not png.parent.is_dir():
        raise FieldguideError(f"there is no folder {png.parent} for the picture")
    print(mask_text(wanted, length, columns=max(1, min(64, console().width - MARGIN))))
    print(f"attend picks {explain(wanted, length)}")
    if png:
        print(mask_png(wanted, png, length))
