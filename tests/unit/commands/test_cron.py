"""Times of day and days of the calendar, against a walk from minute to minute with Python's own calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zmqbroker.commands import cron_fault, next_minute, parse_cron

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


class Field(NamedTuple):
    """One field: as text, and the values that it means."""

    text: str
    values: frozenset[int]


def name_of(place: int, value: int) -> str:
    """A value as its name where there is one."""
    if place == 3:
        return MONTHS[value - 1].upper()
    return DAYS[value] if place == 4 and value < 7 else str(value)


@st.composite
def parts(draw: st.DrawFn, place: int) -> Field:
    low, high = RANGES[place]
    step = draw(st.integers(1, 9))
    first, last = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    one = name_of(place, first) if draw(st.booleans()) else f"{first:02}"
    end = 6 if place == 4 else high
    match draw(st.integers(0, 4)):
        case 0:
            return Field("*", frozenset(range(low, end + 1)))
        case 1:
            return Field(f"*/{step}", frozenset(value for value in range(low, end + 1) if (value - low) % step == 0))
        case 2:
            return Field(one, frozenset([first]))
        case 3:
            return Field(f"{one}-{last}", frozenset(range(first, last + 1)))
        case _:
            values = frozenset(value for value in range(first, last + 1) if (value - first) % step == 0)
            return Field(f"{first}-{last}/{step}", values)


def fields(place: int) -> st.SearchStrategy[Field]:
    return st.lists(parts(place), min_size=1, max_size=3).map(
        lambda found: Field(",".join(part.text for part in found), frozenset().union(*(part.values for part in found)))
    )


def fits(said: tuple[Field, ...], moment: datetime) -> bool:
    """The rule, in words that a reader of cron's manual knows."""
    minute, hour, of_month, month, of_week = said
    in_week = moment.isoweekday() % 7 in {value % 7 for value in of_week.values}
    in_month = moment.day in of_month.values
    restricted = of_month.text[0] != "*" and of_week.text[0] != "*"
    day = in_month or in_week if restricted else in_month and in_week
    return moment.minute in minute.values and moment.hour in hour.values and moment.month in month.values and day


def walk(said: tuple[Field, ...], moment: datetime, minutes: int) -> datetime | None:
    """The first minute that fits among so many behind `moment`, each looked at."""
    for _ in range(minutes):
        moment += timedelta(minutes=1)
        if fits(said, moment):
            return moment
    return None


def minute_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(minutes=1)


TIMES = st.tuples(*map(fields, range(5)))
STARTS = st.one_of(
    st.datetimes(datetime(1970, 1, 1), datetime(2550, 1, 1)),
    st.builds(lambda year, day: datetime(year, 2, 27) + timedelta(days=day), st.integers(1971, 2500), st.integers(0, 3)),
    st.builds(lambda year, hours: datetime(year, 12, 31) + timedelta(hours=hours), st.integers(1971, 2500), st.integers(0, 26)),
)


@settings(deadline=None, max_examples=150)
@given(TIMES, STARTS)
def test_next_minute_is_the_first_that_a_walk_finds(said: tuple[Field, ...], start: datetime) -> None:
    text = " ".join(field.text for field in said)
    if fault := cron_fault(text):
        assert "never comes" in fault
        return
    moment = start.replace(second=0, microsecond=0, tzinfo=UTC)
    found, walked = next_minute(parse_cron(text), minute_of(moment)), walk(said, moment, 4 * 1440)
    if walked is None:
        assert found > minute_of(moment) + 4 * 1440
        assert fits(said, EPOCH + timedelta(minutes=found))
    else:
        assert found == minute_of(walked)


def next_day_by_walk(said: tuple[Field, ...], moment: datetime, days: int) -> datetime | None:
    """The first midnight of `days` that fits."""
    for _ in range(days):
        moment += timedelta(days=1)
        if fits(said, moment):
            return moment
    return None


@settings(deadline=None, max_examples=150)
@given(st.tuples(*map(fields, (2, 3, 4))), STARTS)
@example((Field("29", frozenset([29])), Field("2", frozenset([2])), Field("*/6", frozenset([0, 6]))), datetime(2072, 3, 1))
def test_next_midnight_is_the_first_that_a_walk_from_day_to_day_finds(days: tuple[Field, ...], start: datetime) -> None:
    zero = Field("0", frozenset([0]))
    said = (zero, zero, *days)
    text = " ".join(field.text for field in said)
    moment = start.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC)
    walked = next_day_by_walk(said, moment, 45 * 366)
    if cron_fault(text):
        assert walked is None
    elif walked is not None:
        assert next_minute(parse_cron(text), minute_of(moment)) == minute_of(walked)


def following(text: str, start: str, count: int = 3) -> list[str]:
    minute, found = minute_of(datetime.fromisoformat(start).replace(tzinfo=UTC)), []
    for _ in range(count):
        minute = next_minute(parse_cron(text), minute)
        found.append((EPOCH + timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("0 3 * * *", "2026-01-31 03:00", ["2026-02-01 03:00", "2026-02-02 03:00", "2026-02-03 03:00"]),
        ("*/20 9-10 * * MON-FRI", "2026-01-02 10:20", ["2026-01-02 10:40", "2026-01-05 09:00", "2026-01-05 09:20"]),
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29 00:00", "2108-02-29 00:00", "2112-02-29 00:00"]),
        ("0 0 31 * *", "2026-01-31 00:00", ["2026-03-31 00:00", "2026-05-31 00:00", "2026-07-31 00:00"]),
        ("30 12 1 * 7", "2026-02-01 12:30", ["2026-02-08 12:30", "2026-02-15 12:30", "2026-02-22 12:30"]),
        ("0 0 13 * 5", "2026-02-12 00:00", ["2026-02-13 00:00", "2026-02-20 00:00", "2026-02-27 00:00"]),
        ("0 0 */2 * 1", "2026-02-01 00:00", ["2026-02-09 00:00", "2026-02-23 00:00", "2026-03-09 00:00"]),
        ("59 23 31 12 *", "2026-12-31 23:59", ["2027-12-31 23:59", "2028-12-31 23:59", "2029-12-31 23:59"]),
    ],
)
def test_instants_of_a_text_are_these(text: str, start: str, expected: list[str]) -> None:
    assert following(text, start) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' has 1 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("*  * * * *", "has 6 fields"),
        ("60 * * * *", "minute '60': '60' is not within 0 to 59"),
        ("* 24 * * *", "hour '24': '24' is not within 0 to 23"),
        ("* * 0 * *", "day of month '0': '0' is not within 1 to 31"),
        ("* * * 13 *", "month '13': '13' is not within 1 to 12"),
        ("* * * * 8", "day of week '8': '8' is not within 0 to 7"),
        ("* * * MONDAY *", "month 'MONDAY'"),
        ("* * * * JAN", "day of week 'JAN'"),
        ("-1 * * * *", "minute '-1': '' is not within"),
        ("5-1 * * * *", "minute '5-1': '5-1' is no value, range or step"),
        ("5/2 * * * *", "minute '5/2': '5/2' is no value, range or step"),
        ("*/0 * * * *", "minute '*/0': '*/0' is no value, range or step"),
        ("*/ * * * *", "minute '*/': '*/' is no value, range or step"),
        ("1,, * * * *", "minute '1,,': '' is not within"),
        ("1.5 * * * *", "minute '1.5': '1.5' is not within"),
        ("٣ * * * *", "minute '٣': '٣' is not within"),
        ("0001 * * * *", "minute '0001': '0001' is not within"),
        ("@daily", "has 1 fields"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 2,4,6,9,11 *", "never comes"),
        ("0 0 30 2 */2", "never comes"),
        ("* " * 128, "it has 256 characters, the limit is 255"),
    ],
)
def test_text_that_says_nothing_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    fault = cron_fault(text)
    assert fault is not None
    assert said in fault


def test_day_that_never_comes_in_a_month_is_fine_where_a_day_of_the_week_is_enough() -> None:
    assert following("0 0 30 2 1", "2026-02-01 00:00", 1) == ["2026-02-02 00:00"]
