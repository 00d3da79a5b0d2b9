"""Grid feeds: where carbon intensities are read, and how long a reading is valid."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAccess:
    """A feed's address and credentials: a key, or a user and a password."""

    base_url: str
    key: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFeeds:
    """The configured feeds.

    access_by_feed: by name: electricity_maps, watttime, uk
    refresh_seconds: between two requests to a feed
    reading_age_seconds_max: older readings are ignored in favor of the annual tables
    """

    access_by_feed: Mapping[str, FeedAccess] = field(default_factory=dict)
    refresh_seconds: float = 900.0
    reading_age_seconds_max: float = 7200.0


NO_GRID_FEEDS = GridFeeds()
