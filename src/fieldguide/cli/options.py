"""Options that several verbs share."""

from typing import Annotated

from cyclopts import Parameter, validators

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Json = Annotated[bool, Parameter(negative=(), show_default=False, help="Print JSON for a program to read.")]
Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]
