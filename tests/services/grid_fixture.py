"""A grid service with scripted endpoints, a clock that the test sets and a store in memory."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from gateway.config.load import parse
from gateway.services.grid import GridService
from gateway.values.catalog import Deployment, EnergyProfile
from gateway.values.snapshot import Snapshot
from tests.services.clocks import ManualClock
from tests.snapshots import BASE_CONFIG, ENV, snapshot

FEEDS = "feeds: {electricity_maps: {api_key: {env: KEY_ONE}, base_url: 'http://em'}, uk: {base_url: 'http://uk'}}"
ZONES = ", feeds: {electricity_maps: FR, uk: '13'}"
ENGINE = ", energy: {active_params_b: 8, metrics_url: 'http://engine/metrics'}"
METER = ", energy: {active_params_b: 8, power: {dcgm_url: 'http://dcgm/metrics', idle_watts: 100}}"
LATENCY = ", energy: {active_params_b: 8, infer_concurrency: true}"


class GridFixture:
    """A grid service with its endpoints and its store.

    snapshot: the snapshot published last
    responses: what an address answers, by a part of its URL: an exception is raised, an event is awaited, a pair is
        status and body
    fetched: URLs that were fetched
    published: number of snapshots published
    windows: stored windows (deployment, shares, total mJ, idle mJ)
    store_error: what the store raises, None while it is writable
    """

    def __init__(self, start: Snapshot) -> None:
        self.snapshot, self.clock = start, ManualClock()
        self.responses: dict[str, object] = {}
        self.fetched: list[str] = []
        self.published = 0
        self.windows: list[tuple[str, list[tuple[str, int]], int, int]] = []
        self.store_error: Exception | None = None
        self.grid = GridService(
            lambda: self.snapshot, self._publish, self.fetch, self.clock.now, self.clock.monotonic, lambda: 0.5
        )
        self.accelerators = self.grid.accelerators

    def _publish(self, fresh: Snapshot) -> None:
        self.snapshot, self.published = fresh, self.published + 1

    async def poll_engines(self) -> None:
        await self.accelerators.poll_engines(self.grid.publish_changes)

    async def read_meters(self) -> None:
        await self.accelerators.read_meters(self, self.grid.publish_changes)

    async def fetch(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """The scripted answer of a URL; refused without one."""
        self.fetched.append(url)
        response = next((scripted for part, scripted in self.responses.items() if part in url), OSError("refused"))
        if isinstance(response, asyncio.Event):
            await response.wait()
            raise TimeoutError
        if isinstance(response, BaseException):
            raise response
        if isinstance(response, tuple):
            return response
        return 200, response if isinstance(response, bytes) else json.dumps(response).encode()

    def append_window(
        self, deployment: str, at_ms: int, shares: Iterable[tuple[str, int]], *, total: int, idle: int
    ) -> None:
        """Stores one window of a meter."""
        if self.store_error is not None:
            raise self.store_error
        self.windows.append((deployment, list(shares), total, idle))

    @property
    def small(self) -> Deployment:
        """The deployment with the sensors."""
        return self.snapshot.deployments["small"]

    @property
    def profile(self) -> EnergyProfile:
        """Its energy profile."""
        assert self.small.energy_profile is not None
        return self.small.energy_profile

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """A metric by its label values."""
        return next(dict(family.samples) for family in self.grid.metrics() if family.name == name)

    def set_latest(self, grams: object, age: float = 0.0, zone: str = "FR") -> None:
        """What Electricity Maps answers."""
        when = datetime.fromtimestamp(self.clock.seconds - age, UTC).isoformat()
        self.responses["latest"] = {"zone": zone, "carbonIntensity": grams, "datetime": when}


def with_feeds() -> GridFixture:
    """A fixture whose small deployment has two feeds."""
    return GridFixture(snapshot(more=FEEDS, small=ZONES))


def with_energy(energy: str) -> GridFixture:
    """A fixture whose small deployment has another energy section."""
    text = BASE_CONFIG.replace(" energy: {{active_params_b: 8}}, zone: FRA,", " zone: FRA,")
    full = text.format(more="", near="http://127.0.0.1:1/v1", far="http://127.0.0.1:2/v1", small=energy)
    return GridFixture(parse(full, "test.yaml", ENV)[0])
