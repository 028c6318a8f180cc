"""D13 integer-input: the inputs have a number type that the weights cannot be multiplied with.

What it looks for: a script that ended with an error about number types.
Why it matters: it does not run.
Usual causes: bytes of an image or integers of a table given to a float network; float64 from numpy; float indices.
Known false alarms: none: the error is there.
Fix: x.float() / 255 for bytes, x.float() for numbers, x.long() for indices.
"""

import re

from fieldguide.doctor.facts import error
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History

_TYPES = re.compile(
    r"same dtype|expected scalar type|should be the same|to have one of the following scalar types"
    r"|not implemented for '(?:Byte|Char|Short|Int|Long|Bool)'|Input type .* and (?:weight|bias) type"
)


def judge(history: History) -> Sign | None:
    crash, dtype = error(history), history.fact("inputs", "dtype")
    if not _TYPES.search(crash):
        return None
    return Sign((f"inputs are {dtype} and " if dtype else "") + f"the script ended with: {crash}", "any")


RULE = Rule(
    code="D13",
    slug="integer-input",
    judge=judge,
    severity="critical",
    fixes=(Fix("Turn inputs into float32 (indices into int64) where the batch is made", "cast inputs"),),
    refute="The input's dtype is that of the weights.",
    **exact("end"),
)
