"""Dates as people write them and as ISO 8601 does: a translation that takes attention, made and not downloaded.

The year, month and day stand in any order, as words or numbers, in three languages, among weekdays and times that do
not count. Which is which always follows from the form: ``3/4/98`` is day first, ``3-4-98`` month first, ``1998/3/4``
has its year first; a year of two digits lies in 1950–2049.
"""

import datetime
from collections.abc import Mapping
from itertools import product

import torch

from fieldguide.data.feed import stream

COUNTS = {"train": 20_000, "val": 1_000, "test": 1_000}
_FIRST = datetime.date(1950, 1, 1)
_DAYS = (datetime.date(2050, 1, 1) - _FIRST).days

_LANGUAGES = {
    "en": (
        "January February March April May June July August September October November December",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    ),
    "de": (
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    ),
    "fr": (
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
    ),
}
_FORMS = {
    "en": (
        "the {ordinal} of {month}, {year}",
        "{weekday}, {month} {day}, {year}",
        "{month} {ordinal}, {year}",
        "{short_weekday} {day} {short_month} {short_year}",
        "{day} {month} {year} at {time}",
        "{year}, {month} {ordinal}",
        "{time} on {weekday} the {ordinal} of {month} {year}",
        "{short_month} {day} '{short_year}",
        "{day}/{number}/{short_year}",
        "{day:02}/{number:02}/{year}",
        "{number}-{day}-{year}",
        "{number:02}-{day:02}-{short_year}",
        "{year}/{number}/{day}",
        "{short_weekday} {year}/{number:02}/{day:02} {time}",
    ),
    "de": (
        "{weekday}, der {day}. {month} {year}",
        "{day}. {month} {year}, {time} Uhr",
        "{short_weekday} {day}.{number}.{short_year}",
        "{day:02}.{number:02}.{year}",
        "am {day}. {short_month}. {year}",
    ),
    "fr": (
        "le {day} {month} {year}",
        "{weekday} {day} {month} {year} à {time}",
        "le {weekday} {day} {short_month}. {short_year}",
    ),
}
_CASES = (str, str, str.lower, str.upper)
_WAYS = [*product(((language, form) for language, forms in _FORMS.items() for form in forms), _CASES)]


def dates(seed: int = 0, counts: Mapping[str, int] = COUNTS) -> dict[str, list[tuple[str, str]]]:
    """``(written, ISO)`` pairs of each part, ``counts`` of them, no written date twice; equal for equal seeds."""
    generator, pairs = stream(seed), {}
    while len(pairs) < sum(counts.values()):
        draws = torch.randint(2**31, (4, 1024), generator=generator)
        for day, way, hour, minute in draws.T.tolist():
            date = _FIRST + datetime.timedelta(days=day % _DAYS)
            (language, form), case = _WAYS[way % len(_WAYS)]
            pairs.setdefault(case(_written(date, language, form, f"{hour % 24}:{minute % 60:02}")), date.isoformat())
    rows = iter(pairs.items())
    return {part: [next(rows) for _ in range(count)] for part, count in counts.items()}


def _written(date: datetime.date, language: str, form: str, time: str) -> str:
    months, weekdays = (names.split() for names in _LANGUAGES[language])
    month, weekday = months[date.month - 1], weekdays[date.weekday()]
    return form.format(
        day=date.day,
        ordinal=_ordinal(date.day),
        month=month,
        short_month=_SHORT.get(month, month[:3]),
        number=date.month,
        year=date.year,
        short_year=f"{date.year % 100:02}",
        weekday=weekday,
        short_weekday=weekday[:2] if language == "de" else weekday[:3],
        time=time,
    )


_SHORT = {"juin": "juin", "juillet": "juil"}
"""Months that three letters would confuse."""


def _ordinal(day: int) -> str:
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
