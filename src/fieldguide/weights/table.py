"""A table of names: how one library calls, and shapes, the tensors of one family, exactly and in both directions.

::

    Table({
        "conv1.*": "stem.conv.*",
        "layer{s+1}.{i}.bn1.*": "stages.{s}.{i}.conv1.norm.*",
        "h.{i}.attn.c_attn.*": split(transpose("layers.{i}.attention.{part}.*"), "query", "key", "value"),
        "lm_head.weight": tied("wte.weight"),
        "h.{i}.attn.bias": ignore("the causal mask, not a weight"),
    })

Left is theirs, right is ours. Every tensor must match exactly one row, whichever side one starts from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from fieldguide.weights.names import Pattern, Values, any_of
from fieldguide.weights.rows import Change, Derived, Ignored, Row, Tied, as_row

COUNTERS = {"*.num_batches_tracked": "older files do not count batches"}


class Move(NamedTuple):
    """Tensors of one side that become tensors of the other."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    changes: tuple[Change, ...]

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = [tensors[name] for name in self.sources]
        for change in self.changes:
            values = change(values)
        return dict(zip(self.targets, values, strict=True))


class Plan(NamedTuple):
    """What becomes of a checkpoint's tensors, decided by their names alone."""

    moves: list[Move]
    surplus: list[str]
    """Names that no row matches, and parts of a tensor whose other parts are not there."""
    ignored: dict[str, str]
    """Name → reason."""
    repeats: dict[str, str]
    """Name → the tied tensor that it must equal."""
    derived: list[Move]
    """From the tensors that determine others to those, which must equal what they give."""


class _Side(NamedTuple):
    pattern: Pattern
    parts: tuple[str, ...]

    def names(self, values: Values) -> tuple[str, ...] | None:
        """All names that these values stand for, one per part."""
        filled = [self.pattern.fill({**values, "part": part}) for part in self.parts or ("",)]
        return None if None in filled else tuple(name for name in filled if name is not None)


class _Rule(NamedTuple):
    source: _Side
    target: _Side
    changes: tuple[Change, ...]


class _Rules:
    """A table's rows in one direction."""

    def __init__(self, rules: Iterable[_Rule]):
        self._rules = list(rules)
        self._known = any_of(rule.source.pattern for rule in self._rules)

    def matching(self, name: str) -> Iterator[Move]:
        if self._known.fullmatch(name) is None:  # most names, when a checkpoint is held against every table
            return
        for source, target, changes in self._rules:
            values = source.pattern.match(name)
            if values is not None:
                sources, targets = source.names(values), target.names(values)
                if sources is not None and targets is not None:
                    yield Move(sources, targets, changes)


class Table:
    """The names that one library gives to the tensors of some sizes of a family.

    ``aliases`` rename what old files of the same library call otherwise: ``{"*.gamma": "*.weight"}``.
    ``optional`` are names of ours that a file may lack, and ``absent`` those that this layout never has; the model then
    keeps its own values. Both give reasons.
    """

    def __init__(
        self,
        rows: Mapping[str, str | Row | Ignored | Tied | Derived],
        *,
        aliases: Mapping[str, str] | None = None,
        optional: Mapping[str, str] = COUNTERS,
        absent: Mapping[str, str] | None = None,
    ):
        reading: list[_Rule] = []
        writing: list[_Rule] = []
        derived: list[_Rule] = []
        self._other: list[tuple[Pattern, Ignored | Tied]] = []
        for name, row in rows.items():
            if isinstance(row, Ignored | Tied):
                self._other.append((Pattern(name), row))
                continue
            if isinstance(row, Derived):
                derived.append(_Rule(_side(row.source, ()), _side(name, ()), (_each(row.compute),)))
                continue
            row = as_row(row)
            theirs, ours = (_side(text, row.parts) for text in (name, row.ours))
            if theirs.pattern.variables - {"part"} != ours.pattern.variables - {"part"}:
                raise ValueError(f"{name!r} and {row.ours!r} have different indices")
            reading.append(_Rule(theirs, ours, row.read))
            writing.append(_Rule(ours, theirs, row.write))
        self._reading, self._writing, self._derived = _Rules(reading), _Rules(writing), _Rules(derived)
        self._aliases = [(Pattern(old), Pattern(new)) for old, new in (aliases or {}).items()]
        self._absent = _reasons(absent or {})
        self._optional = [*self._absent, *_reasons(optional)]

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors with old names made current; where both are there, the old one keeps its name."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            current = self._current(name)
            renamed[name if current in tensors or current in renamed else current] = tensor
        return renamed

    def _current(self, name: str) -> str:
        for old, new in self._aliases:
            values = old.match(name)
            if values is not None:
                name = new.fill(values) or name
        return name

    def plan(self, names: Iterable[str]) -> Plan:
        """From their (canonical) names to ours."""
        names = dict.fromkeys(names)
        ignored: dict[str, str] = {}
        repeats: dict[str, str] = {}
        stands_in: dict[str, str] = {}
        for name in names:
            for row in (row for pattern, row in self._other if pattern.match(name) is not None):
                if any(self._reading.matching(name)):
                    raise ValueError(f"{name!r} matches two rows of its table, one of them {row}")
                if isinstance(row, Ignored):
                    ignored[name] = row.reason
                elif row.first in names or row.first in stands_in:
                    repeats[name] = row.first if row.first in names else stands_in[row.first]
                else:
                    stands_in[row.first] = name
        derived = [move for name in names for move in self._derived.matching(name) if move.targets[0] in names]
        special = {*ignored, *repeats, *stands_in.values(), *(move.targets[0] for move in derived)}
        moves, surplus = _moves(self._reading, [*(name for name in names if name not in special), *stands_in])
        moves = [move._replace(sources=tuple(stands_in.get(name, name) for name in move.sources)) for move in moves]
        return Plan(moves, [stands_in.get(name, name) for name in surplus], ignored, repeats, derived)

    def why_missing(self, ours: str) -> str | None:
        """The reason for which a file of this layout may lack a tensor of ours, or None when it must have it."""
        return next((reason for pattern, reason in self._optional if pattern.match(ours) is not None), None)

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors in their names and shapes; raises KeyError with the names that this layout does not have."""
        names = [name for name in ours if not any(pattern.match(name) is not None for pattern, _ in self._absent)]
        moves, surplus = _moves(self._writing, names)
        if surplus:
            raise KeyError(*surplus)
        theirs = {name: tensor.contiguous() for move in moves for name, tensor in move(ours).items()}
        for move in [move for name in theirs for move in self._derived.matching(name)]:
            theirs |= move(theirs)
        return theirs

    def theirs(self, ours: Iterable[str]) -> list[str]:
        """What this layout calls tensors of ours; a name that it cannot write stays."""
        moves, surplus = _moves(self._writing, ours)
        return [name for move in moves for name in move.targets] + surplus


def _side(text: str, parts: tuple[str, ...]) -> _Side:
    pattern = Pattern(text, parts)
    return _Side(pattern, parts if "part" in pattern.variables else ())


def _each(compute: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: [compute(tensor) for tensor in tensors]


def _reasons(patterns: Mapping[str, str]) -> list[tuple[Pattern, str]]:
    return [(Pattern(text), reason) for text, reason in patterns.items()]


def _moves(rules: _Rules, names: Iterable[str]) -> tuple[list[Move], list[str]]:
    """Match every name with its one rule; the second result are the names that cannot move."""
    names = dict.fromkeys(names)
    moves: dict[tuple[str, ...], Move] = {}
    surplus: list[str] = []
    for name in names:
        found = list(rules.matching(name))
        if len(found) > 1:
            raise ValueError(f"{name!r} matches {len(found)} rows of its table: {[move.targets for move in found]}")
        if found and all(source in names for source in found[0].sources):
            moves[found[0].sources] = found[0]
        else:
            surplus.append(name)
    taken: set[str] = set()
    for sources, move in list(moves.items()):
        if not taken.isdisjoint(move.targets):
            surplus += moves.pop(sources).sources
        taken.update(move.targets)
    return list(moves.values()), surplus
