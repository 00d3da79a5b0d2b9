"""Where news of the grids come from, and how long they are believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAccess:
    """A feed's address and what it wants to be shown: a key, or a user and a password."""

    base_url: str
    key: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFeeds:
    """The feeds by name (electricity_maps, watttime, uk); asked anew every `refresh_seconds`. A value older than
    `age_seconds_max` is not used any more: the tables are."""

    access_by_feed: Mapping[str, FeedAccess] = field(default_factory=dict)
    refresh_seconds: float = 900.0
    reading_age_seconds_max: float = 7200.0


NO_GRID_FEEDS = GridFeeds()
