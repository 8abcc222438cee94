"""A calendar date and time as seconds since the start of year 0, for any field values a guest may write.

Python's datetime refuses the dates that a guest can write to a clock chip (month 0, February 31, year 0), so the day
count is computed here (proleptic Gregorian calendar).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

SECONDS_PER_DAY = 86_400
DAYS_PER_400_YEARS = 146_097
#: Weekday (0 is Sunday) of March 1 of year 0.
FIRST_WEEKDAY = 3
#: Days from the start of year 0 to its March 1.
MARCH_1 = 60


def _days_from_march(year: int, month: int, day: int) -> int:
    """Days from March 1 of year 0; months and days out of range run into the next or previous ones."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    year -= month <= 2
    month_from_march = (month - 3) % 12
    leap_days = year // 4 - year // 100 + year // 400
    return year * 365 + leap_days + (153 * month_from_march + 2) // 5 + day - 1


@dataclass(frozen=True, slots=True)
class CalendarTime:
    """A date (year, month 1..12, day 1..31), a time, and the weekday (0 is Sunday)."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    weekday: int = 0

    @classmethod
    def from_datetime(cls, date: datetime) -> CalendarTime:
        """The fields of `date`; its time zone is ignored."""
        return cls(date.year, date.month, date.day, date.hour, date.minute, date.second)

    @classmethod
    def from_seconds(cls, seconds: int, weekday_offset: int = 0) -> CalendarTime:
        """The time `seconds` after the start of year 0, in years 0 to 9999, with the weekday moved by an offset."""
        days, of_day = divmod(seconds, SECONDS_PER_DAY)
        days -= MARCH_1
        weekday = (days + FIRST_WEEKDAY + weekday_offset) % 7
        era, day_of_era = divmod(days, DAYS_PER_400_YEARS)
        year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
        day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
        month_from_march = (5 * day_of_year + 2) // 153
        day = day_of_year - (153 * month_from_march + 2) // 5 + 1
        month = (month_from_march + 2) % 12 + 1
        year = era * 400 + year_of_era + (month <= 2)
        return cls(year % 10_000, month, day, of_day // 3600, of_day // 60 % 60, of_day % 60, weekday)

    def seconds(self) -> int:
        """Seconds since the start of year 0. Fields out of range are carried over."""
        days = _days_from_march(self.year, self.month, self.day) + MARCH_1
        return days * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second
