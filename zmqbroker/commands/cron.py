"""Five fields that say when something is to happen again and again, in UTC: minute, hour, day of month, month, day of week.

Replicas compute from them when a schedule falls due, so what they mean can never change: the parser is our own, knows no time
zone, no calendar library and no locale, and belongs to the machine's version. What it accepts:

| field | values | names |
|---|---|---|
| minute, hour, day of month, month | 0-59, 0-23, 1-31, 1-12 | months: JAN to DEC |
| day of week | 0-7; 0 and 7 are Sunday | SUN to SAT |

A field is a list of parts with commas: `*`, a value, or a range `a-b` with a <= b; `*` and a range may have a step, `*/n` or
`a-b/n`, which begins at their first value. Names are those of three letters, in either case. A day counts when the month, the
day of the month and the day of the week fit; where neither of the two day fields begins with `*`, one of them is enough, as
cron has always had it. The second is 0, and a minute that a schedule has seen does not come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["CRON_SIZE_MAX", "Cron", "cron_fault", "next_minute", "parse_cron"]

#: Characters of a whole text; the longest useful one names 60 minutes.
CRON_SIZE_MAX = 255

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NAMES = {
    "month": {name: number for number, name in enumerate(_MONTHS, 1)},
    "day of week": {name: number for number, name in enumerate(_DAYS)},
}
#: Days of the months of a leap year; February is looked at again year by year.
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAY_MINUTES = 24 * 60
#: The calendar begins anew after 400 years, the days of the week too: what does not come within them never does.
_CALENDAR_MONTHS = 400 * 12


@dataclass(slots=True, frozen=True)
class Cron:
    """What a text says."""

    minutes: tuple[int, ...]  # of an hour, ascending
    hours: tuple[int, ...]  # ascending
    month_days: frozenset[int]
    months: frozenset[int]
    week_days: frozenset[int]  # 0 is Sunday
    either: bool  # one of the two day fields is enough

    def fits_day(self, day: int, week_day: int) -> bool:
        """Whether a day of a month that fits counts."""
        of_month, of_week = day in self.month_days, week_day in self.week_days
        return of_month or of_week if self.either else of_month and of_week


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Cron:
    """Read five fields. Raises ValueError that says which part of `text` is wrong, or that no day ever fits."""
    if len(text) > CRON_SIZE_MAX:
        raise ValueError(f"it has {len(text)} characters, the limit is {CRON_SIZE_MAX}")
    fields = text.split(" ")
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{text!r} has {len(fields)} fields with one space between them, it must have 5")
    minutes, hours, month_days, months, week_days = (
        _field(said, *described) for said, described in zip(fields, _FIELDS, strict=True)
    )
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    if not either and not any(min(month_days) <= _MONTH_DAYS[month - 1] for month in months):
        raise ValueError(f"{text!r} never comes: no such month has such a day")
    return Cron(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(month_days),
        frozenset(months),
        frozenset(day % 7 for day in week_days),
        either,
    )


def cron_fault(text: str) -> str | None:
    """Why a text says nothing that `parse_cron` reads; None when it does."""
    try:
        parse_cron(text)
    except ValueError as error:
        return str(error)
    return None


def _field(said: str, name: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in said.split(","):
        values, slash, step_text = part.partition("/")
        first_text, dash, last_text = values.partition("-")
        if values == "*":
            first, last = low, min(high, 6) if name == "day of week" else high
        else:
            first = _value(first_text, name, low, high, said)
            last = _value(last_text, name, low, high, said) if dash else first
        step = _number(step_text) if slash else 1
        if first > last or step is None or step < 1 or (slash and values != "*" and not dash):
            raise ValueError(f"{name} {said!r}: {part!r} is no value, range or step")
        found.update(range(first, last + 1, step))
    return found


def _value(text: str, name: str, low: int, high: int, said: str) -> int:
    value = _NAMES.get(name, {}).get(text.upper(), _number(text))
    if value is None or not low <= value <= high:
        raise ValueError(f"{name} {said!r}: {text!r} is not within {low} to {high}")
    return value


def _number(text: str) -> int | None:
    """A decimal number of up to three digits, which are those of ASCII; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else None


def next_minute(cron: Cron, minute: int) -> int:
    """The first minute after `minute` that fits; both are counted from the beginning of 1970, and not negative."""
    day, of_day = divmod(minute + 1, _DAY_MINUTES)
    if (found := _in_day(cron, of_day)) is not None and _fits(cron, day):
        return day * _DAY_MINUTES + found
    first = _in_day(cron, 0)
    assert first is not None
    return _next_day(cron, day) * _DAY_MINUTES + first


def _in_day(cron: Cron, of_day: int) -> int | None:
    """The first minute of a day, not before `of_day`, that fits."""
    hour, minute = divmod(of_day, 60)
    for candidate in cron.hours:
        if candidate == hour:
            found = next((value for value in cron.minutes if value >= minute), None)
            if found is not None:
                return hour * 60 + found
        elif candidate > hour:
            return candidate * 60 + cron.minutes[0]
    return None


def _fits(cron: Cron, day: int) -> bool:
    _, month, of_month = _date(day)
    return month in cron.months and cron.fits_day(of_month, _week_day(day))


def _next_day(cron: Cron, day: int) -> int:
    """The first day after `day` that fits."""
    year, month, of_month = _date(day)
    first = day - of_month + 1  # of the month
    for _ in range(_CALENDAR_MONTHS + 1):
        days = _days_in(year, month)
        if month in cron.months:
            for number in range(1, days + 1):
                if first + number - 1 > day and cron.fits_day(number, _week_day(first + number - 1)):
                    return first + number - 1
        first += days
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    raise AssertionError(f"no day fits {cron}")


def _week_day(day: int) -> int:
    """0 is Sunday; 1970 began with a Thursday."""
    return (day + 4) % 7


def _days_in(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTH_DAYS[month - 1] - (month == 2 and not leap)


def _date(day: int) -> tuple[int, int, int]:
    """Year, month and day of the month of a day since 1970; by years that begin in March, so that a leap day is their last."""
    day += 719_468  # from 1 March of the year 0
    era, day = divmod(day, 146_097)  # 400 years
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153  # from March
    of_month = day - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return era * 400 + year + (month <= 2), month, of_month
