"""Where a request goes: its verdict, its aim, its plan; and what the books of routing learn when a call has ended."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import structs

from ..accounting.output_estimate import OutputBook
from ..dialects import CONVERSATIONS
from ..dialects.output_constraints import asked
from ..routing import plan as planning
from ..routing.agent_roles import RoleBook
from ..routing.cascade import CascadeBook, next_above, pays
from ..routing.circuit_breaker import HealthBook
from ..routing.classifiers.task_type import TaskTypes
from ..routing.classify import Read, opinion
from ..routing.deployment_load import Load, LoadBook
from ..routing.plan import Situation
from ..routing.prompt_features import features, tools_text
from ..routing.scorer import Scorer
from ..routing.session_forecast import CACHE_SECONDS, CACHE_SECONDS_LONG, ProspectBook, Warm
from ..routing.tier_target import Aim, Aims
from ..routing.verifier import doubts
from ..values.catalog import Tier
from ..values.energy_policy import Deferral
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Facts, Plan, Refusal, Verdict
from ..values.quality import SHADOW, Role
from .context import Arrived, Decided, Progress

# Deployments of one session whose caches are remembered.
_WARM_MAX = 16
# Texts whose reading is remembered: about 10 kB each. An agent's steps all have the same newest text.
_TEXTS_MAX = 1_000


class Navigator:
    """Plans the ways of one process. Holds the books of routing; `jitter` draws from [0, 1)."""

    def __init__(
        self, health: HealthBook, outputs: OutputBook, jitter: Callable[[], float], scorer: Scorer | None = None
    ) -> None:
        self._scorer = scorer
        # What was read of the newest texts, by a hash that only this process knows.
        self._texts: OrderedDict[int, Read] = OrderedDict()
        self._kinds = TaskTypes()
        self.aims = Aims()
        self.loads = LoadBook()
        self._health = health
        self._outputs = outputs
        self._prospects = ProspectBook()
        self._roles = RoleBook()
        self._jitter = jitter
        self.cascades = CascadeBook()
        # What was first last time, by route, task type and tier: where the greener goes first it is compared with that.
        self._chosen: dict[tuple[str, str, Tier | None], str] = {}

    def judged(self, arrived: Arrived, facts: Facts) -> tuple[Verdict, Role | None]:
        """What kind of work this is, how hard it looks, and which part its agent plays."""
        world, hints = arrived.world, arrived.hints
        role = self._roles.role(
            world.roles,
            facts,
            arrived.caller.key,
            declared=hints.role,
            agent=hints.agent or "",
            sub_agent=bool(arrived.session.parent),
        )
        declared = hints.task_type
        if declared is None and role is not None:
            declared = role.task_type
        read = self._read(facts) if arrived.route.auto and world.classifier == "learned" else None
        verdict = opinion(
            facts,
            world,
            arrived.caller.org,
            self._kinds,
            declared=declared,
            role=role,
            read=read,
            pair=arrived.route.pair,
        )
        return verdict, role

    def aimed(self, arrived: Arrived, verdict: Verdict, role: Role | None) -> Aim | None:
        """The lowest tier that will do; None where the route leaves no choice."""
        if not arrived.route.auto:
            return None
        return self.aims.aim(
            arrived.route,
            verdict,
            arrived.caller.org,
            arrived.world,
            role,
            opens=not arrived.session.calls,
            now=arrived.at,
        )

    def _read(self, facts: Facts) -> Read | None:
        """What the scorer says of the newest text; an agent's later steps have the same one and are not scored again."""
        if self._scorer is None:
            return None
        text = hash((facts.prompt, facts.tools))
        known = self._texts.get(text)
        if known is None:
            found = features(facts.prompt, tools_text(facts.tools))
            known = self._texts[text] = Read(found, self._scorer)
            if len(self._texts) > _TEXTS_MAX:
                self._texts.popitem(last=False)
        else:
            self._texts.move_to_end(text)
        return known

    def planned(self, decided: Decided, *, now: float, rehearsal: bool = False) -> Plan | Refusal:
        """Which deployments are tried, in which order; `now` is monotonic. A `rehearsal` is remembered by nobody."""
        world, session, facts, task_type = decided.world, decided.session, decided.facts, decided.verdict.task_type

        def load(name: str) -> Load:
            return self.loads.load(name, facts.input_tokens, now=now)

        green = world.green.of(task_type)
        kind = decided.route.name, task_type, decided.aim.tier if decided.aim is not None else None
        situation = Situation(
            green=green,
            chosen=self._chosen.get(kind, ""),
            deferrable=decided.deferral is not None,
            standing=lambda name: self._health.standing(name, now=now),
            carrier=decided.carrier,
            aim=decided.aim,
            outlook=self._prospects.outlook(task_type, session.calls, session.warm, now=decided.at),
            typical=lambda model: self._outputs.usual(task_type, model),
            load=load,
            toss=self._jitter(),
            deadline_ms=decided.deadline_ms,
        )
        plan = planning.decide(decided.route, decided.request, facts, situation)
        if isinstance(plan, Refusal) or rehearsal:
            return plan
        if green.moves:
            # As many as there are routes, task types and tiers.
            self._chosen[kind] = plan.attempts[0].deployment.name
        return planning.moved(plan, session.moved) if session.moved else self._directly(decided, plan, now)

    def deferral(self, arrived: Arrived, task_type: str) -> Deferral | None:
        """How long a request may wait: as it asks itself (0: not at all), else as its kind of work may. What passes through,
        goes on in the background, or is asked for learning's sake is served at once."""
        request, asked_seconds = arrived.request, arrived.hints.defer_seconds
        if request.passage is not None or request.background or arrived.caller.key == SHADOW:
            return None
        rule = arrived.world.green.of(task_type).deferral
        if asked_seconds is None:
            return rule
        if not asked_seconds:
            return None
        return Deferral(seconds=asked_seconds, gain_min=rule.gain_min) if rule else Deferral(seconds=asked_seconds)

    def expected_seconds(self, decided: Decided, attempt: Attempt) -> float:
        """How long such a call usually takes; of a deployment that was not called yet the first byte's wait is not in it."""
        usual = self._outputs.usual(decided.verdict.task_type, attempt.deployment.model) * decided.request.choices
        load = self.loads.load(attempt.deployment.name, decided.facts.input_tokens, now=0.0)
        return (load.wait_ms + min(usual, attempt.output_tokens_max) * planning.TOKEN_MS) / 1000

    def escalates(self, decided: Decided, attempts: Sequence[Attempt], place: int) -> bool:
        """Whether a doubtful answer of this attempt leads to another."""
        return self._escalation(decided, attempts, place) is not None

    def _escalation(self, decided: Decided, attempts: Sequence[Attempt], place: int) -> int | None:
        """Where a doubtful answer of this attempt leads; None where its answer is taken as it comes. Streams are: what has
        begun cannot be taken back."""
        policy, request = decided.world.cascade, decided.request
        if not policy.on or decided.aim is None or request.stream or request.dialect not in CONVERSATIONS:
            return None
        if request.background or request.references or request.conversation or decided.facts.bonds:
            # What its provider goes on with, or keeps, would be begun twice.
            return None
        return next_above(attempts, place)

    def doubtful(self, decided: Decided, progress: Progress, *, now: float) -> bool:
        """Whether anything speaks against a whole answer, and time is left for another; remembers how often that is so."""
        assert progress.said is not None, "only what was read is doubted"
        deadline = decided.deadline_ms
        if deadline is not None and (now - decided.started) * 1000 >= deadline / 2:
            return False
        progress.doubts = doubts(progress.said, asked(decided.request))
        verdict = decided.verdict
        self.cascades.seen(verdict.task_type, verdict.complexity, doubtful=bool(progress.doubts))
        return bool(progress.doubts)

    def _directly(self, decided: Decided, plan: Plan, now: float) -> Plan:
        """The plan that begins above at once where small answers are doubted so often that it costs less."""
        above = self._escalation(decided, plan.attempts, 0)
        if above is None:
            return plan
        verdict, prior = decided.verdict, decided.world.cascade.escalates
        share = self.cascades.escalates(verdict.task_type, verdict.complexity, prior)
        if pays(plan.attempts[0], plan.attempts[above], share) or self.cascades.looks_again():
            return plan
        if self._health.standing(plan.attempts[above].deployment.name, now=now).resting:
            return plan
        first = plan.attempts[above]
        first = structs.replace(first, reason=f"{first.reason}, {share:.0%} of smaller answers are doubted")
        rest = [attempt for place, attempt in enumerate(plan.attempts) if place != above]
        return Plan(attempts=(first, *rest), struck=plan.struck)

    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None:
        """A call has ended: what its deployment's cache now holds, and what its session did next."""
        if decided.caller.key == SHADOW:
            # Nobody's session: what follows it says nothing of those that people have.
            return
        if decided.aim is not None and entry.final and entry.tier in Tier.__members__:
            self.aims.served(decided.aim, Tier[entry.tier], decided.route.reference.tier)
        if progress.outcome != "completed" or entry.usage_basis != "exact" or decided.request.passage is not None:
            return
        session, name, now = decided.session, entry.deployment, decided.at
        before = session.warm.get(name)
        if before is not None and before.until > now:
            self._prospects.read(name, min(before.tokens, entry.input_tokens), entry.cached_input_tokens)
        known = session.input_tokens
        high = decided.aim is not None and decided.aim.tier > decided.route.lowest
        self._prospects.served(
            entry.task_type,
            session.calls,
            high=high,
            before=session.wanted_more,
            grown_tokens=entry.input_tokens - known if known else 0,
        )
        session.wanted_more = high
        session.input_tokens = entry.input_tokens
        seconds = CACHE_SECONDS_LONG if decided.facts.long_cache else CACHE_SECONDS
        if name not in session.warm and len(session.warm) >= _WARM_MAX:
            session.warm.pop(next(iter(session.warm)))
        session.warm[name] = Warm(tokens=entry.input_tokens + entry.output_tokens, until=now + seconds)
