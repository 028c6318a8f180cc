"""What a user can do wrong, said in one line: what, where, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class FieldguideError(ValueError):
    """A mistake the user can mend; the command prints it as one line and exits with 2."""


class UnknownField(FieldguideError, TypeError):
    """An argument that the model or recipe does not have."""


class DamagedFile(FieldguideError):
    """A file that is not what it was when it was written, or that cannot be read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'resnet50'?"``, or nothing when no known name is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> FieldguideError:
    """The error for a name that is not among the known ones, with the nearest one suggested."""
    known = list(known)
    listing = where or (f"known: {', '.join(known)}" if len(known) <= 12 else "")
    return FieldguideError(f"unknown {what} {name!r}{did_you_mean(name, known)}{f' ({listing})' if listing else ''}")
