"""How long a provider asks not to be called, read from the headers of an error. Pure."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

# A longer pause counts as this one: the date may be wrong, and keys and quotas change.
PAUSE_SECONDS_MAX = 86_400.0
_RATE_LIMITED = 429
# What a proxy makes of two header lines.
_NUMBERS = re.compile(r"\d{1,15}(?:\s*,\s*\d{1,15})+", re.ASCII)
# 30, 1.5, and the durations of rate limit headers, like 6m0s or 17ms (platform.openai.com, rate limits, 2026).
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_DURATION_UNITS = (3600.0, 60.0, 1.0, 0.001)
# The three forms of RFC 9110, 5.6.7: IMF-fixdate, RFC 850, asctime.
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE | re.ASCII)
    for pattern in (
        rf"[a-z]{{3,9}}, ?(?P<day>\d\d?)[ -](?P<month>[a-z]{{3}})[ -](?P<year>\d{{4}}|\d\d) {_TIME} (?:GMT|UTC|[+-]0000)",
        rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) {{1,2}}(?P<day>\d\d?) {_TIME} (?P<year>\d{{4}})",
    )
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# A year of two digits that would be more than 50 years ahead is one of the last century (RFC 9110, 5.6.7).
_SECONDS_50_YEARS = 50 * 365.25 * 86_400
# Names of rate limit headers: OpenAI's and those of compatible servers, and Anthropic's.
_RESET_HEADER = re.compile(r"(x-ratelimit-)reset(-[a-z-]+)?|(anthropic-ratelimit-[a-z-]+-)reset")
# Numbers above these are times since the epoch, in seconds and in milliseconds (OpenRouter), not pauses.
_EPOCH_SECONDS_MIN, _EPOCH_MS_MIN = 1e9, 1e12


def retry_after_seconds(status: int, headers: Mapping[str, str], *, now: float) -> float | None:
    """Returns the pause in seconds, at most PAUSE_SECONDS_MAX; None where the provider names none.

    Retry-After-Ms counts before Retry-After, which is in seconds or a date; without both, a rate limit lasts until its
    exhausted windows begin anew.
    now: seconds since the epoch
    """
    lowered = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = lowered.get("retry-after-ms", "")
    if _NUMBER.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, PAUSE_SECONDS_MAX)
    pause = _pause(lowered.get("retry-after", ""), now=_date(lowered.get("date", ""), now=now) or now)
    if pause is None and status == _RATE_LIMITED:
        pause = max(_exhausted_windows(lowered, now=now), default=None)
    return pause if pause is None else min(pause, PAUSE_SECONDS_MAX)


def _exhausted_windows(headers: Mapping[str, str], *, now: float) -> Iterator[float]:
    """Yields the pause of each window of a rate limit that has nothing left."""
    for name, value in headers.items():
        match = _RESET_HEADER.fullmatch(name)
        if match is None:
            continue
        remaining = f"{match[1]}remaining{match[2] or ''}" if match[1] else f"{match[3]}remaining"
        if headers.get(remaining) == "0" and (pause := _pause(value, now=now)) is not None:
            yield pause


def _pause(text: str, *, now: float) -> float | None:
    """Returns the seconds of a number, a duration or a date; None for anything else."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH_MS_MIN:
            number /= 1000
        return number if number < _EPOCH_SECONDS_MIN else max(0.0, number - now)
    if _NUMBERS.fullmatch(text):
        return max(float(part) for part in text.split(","))
    duration = _DURATION.fullmatch(text) if text else None
    if duration is not None:
        return sum(float(part) * unit for part, unit in zip(duration.groups(), _DURATION_UNITS, strict=True) if part)
    at = _date(text, now=now)
    return None if at is None else max(0.0, at - now)


def _date(text: str, *, now: float) -> float | None:
    """Returns the seconds since the epoch of an HTTP date, or of an RFC 3339 time; None for anything else."""
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            return _timestamp(match, now=now)
    try:
        at = datetime.fromisoformat(text) if "T" in text else None
    except ValueError:
        return None
    return None if at is None or at.tzinfo is None else at.timestamp()


def _timestamp(match: re.Match[str], *, now: float) -> float | None:
    month, year = match["month"].lower(), int(match["year"])
    if month not in _MONTHS:
        return None
    if len(match["year"]) == 2:
        year += 2000
    fields = (year, _MONTHS.index(month) + 1, int(match["day"]), int(match["hour"]), int(match["minute"]))
    # A leap second is a legal 60.
    seconds = min(int(match["second"]), 59)
    try:
        at = datetime(*fields, seconds, tzinfo=UTC).timestamp()
        if len(match["year"]) == 2 and at > now + _SECONDS_50_YEARS:
            at = datetime(year - 100, *fields[1:], seconds, tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return at
