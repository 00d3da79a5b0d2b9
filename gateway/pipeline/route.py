"""Route: classification, tier target and plan of a request.

Also records ended calls in the state of routing.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import structs

from ..accounting.output_estimate import OutputEstimates
from ..dialects import CONVERSATION_DIALECTS
from ..dialects.output_constraints import parse_output_constraints
from ..routing import plan as planning
from ..routing.agent_roles import AgentRoles
from ..routing.cascade import CascadeStats, cascade_pays, next_higher_tier
from ..routing.circuit_breaker import CircuitBreakers
from ..routing.classifiers.task_type import TaskTypeClassifier
from ..routing.classify import ScoredPrompt, classify
from ..routing.deployment_load import DeploymentLoad, DeploymentLoads
from ..routing.plan import PlanInputs
from ..routing.prompt_features import normalized_tools, prompt_features
from ..routing.scorer import Scorer
from ..routing.session_forecast import CACHE_SECONDS, CACHE_SECONDS_LONG, CachedPrefix, SessionForecaster
from ..routing.tier_target import TierTarget, TierTargets
from ..routing.verifier import failed_checks
from ..values.catalog import Tier
from ..values.energy_policy import Deferral
from ..values.ledger_entry import LedgerEntry
from ..values.plan import Attempt, Classification, Plan, Refusal, RequestFeatures
from ..values.quality import SHADOW_KEY, Role
from .context import AttemptProgress, IdentifiedRequest, RequestContext

# Deployments per session whose prompt caches are tracked.
_WARM_CACHES_MAX = 16
# Scored texts that are cached, about 10 kB each. All steps of an agent have the same newest text.
_SCORED_TEXTS_MAX = 1_000


class Router:
    """Classifies and plans requests.

    Keeps the routing state of this process; `jitter` draws from [0, 1).
    """

    def __init__(
        self,
        circuit_breakers: CircuitBreakers,
        outputs: OutputEstimates,
        jitter: Callable[[], float],
        scorer: Scorer | None = None,
    ) -> None:
        self._scorer = scorer
        # By a hash that is salted for this process.
        self._scores_by_text: OrderedDict[int, ScoredPrompt] = OrderedDict()
        self._task_types = TaskTypeClassifier()
        self.tier_targets = TierTargets()
        self.loads = DeploymentLoads()
        self._circuit_breakers = circuit_breakers
        self._output_estimates = outputs
        self.session_forecasts = SessionForecaster()
        self._roles = AgentRoles()
        self._jitter = jitter
        self.cascades = CascadeStats()
        # The first deployment of the last plan by (route, task type, tier): a cleaner one has to beat it.
        self._previous_first: dict[tuple[str, str, Tier | None], str] = {}

    def classify(self, identified: IdentifiedRequest, features: RequestFeatures) -> tuple[Classification, Role | None]:
        """Classify a request: task type and complexity, and the role of its agent."""
        snapshot, hints = identified.snapshot, identified.hints
        role = self._roles.resolve(
            snapshot.roles,
            features,
            identified.caller.key,
            declared=hints.role,
            agent=hints.sub_agent or "",
            sub_agent=bool(identified.session.parent),
        )
        declared = hints.task_type
        if declared is None and role is not None:
            declared = role.task_type
        scored = (
            self._prompt_scores(features) if identified.route.is_auto and snapshot.classifier == "learned" else None
        )
        classification = classify(
            features,
            snapshot,
            identified.caller.org,
            self._task_types,
            declared=declared,
            role=role,
            scored=scored,
            model_pair=identified.route.model_pair,
        )
        return classification, role

    def tier_target(
        self, identified: IdentifiedRequest, classification: Classification, role: Role | None
    ) -> TierTarget | None:
        """The lowest tier expected to suffice; None where the route leaves no choice."""
        if not identified.route.is_auto:
            return None
        return self.tier_targets.choose(
            identified.route,
            classification,
            identified.caller.org,
            identified.snapshot,
            role,
            first_in_session=not identified.session.call_count,
            now=identified.received_at,
        )

    def _prompt_scores(self, features: RequestFeatures) -> ScoredPrompt | None:
        """Scores of the newest user text, cached for an agent's later steps."""
        if self._scorer is None:
            return None
        key = hash((features.newest_user_text, features.tools_head))
        scored = self._scores_by_text.get(key)
        if scored is None:
            prompt = prompt_features(features.newest_user_text, normalized_tools(features.tools_head))
            scored = self._scores_by_text[key] = ScoredPrompt(prompt, self._scorer)
            if len(self._scores_by_text) > _SCORED_TEXTS_MAX:
                self._scores_by_text.popitem(last=False)
        else:
            self._scores_by_text.move_to_end(key)
        return scored

    def plan(self, context: RequestContext, *, now: float, dry_run: bool = False) -> Plan | Refusal:
        """The ordered attempts, or a refusal; `now` is monotonic.

        A `dry_run` changes no state.
        """
        snapshot, session, features, task_type = (
            context.snapshot,
            context.session,
            context.features,
            context.classification.task_type,
        )

        def load(name: str) -> DeploymentLoad:
            return self.loads.load(name, features.input_tokens, now=now)

        preferences = snapshot.energy_policy.for_task_type(task_type)
        plan_key = context.route.name, task_type, context.target.tier if context.target is not None else None
        inputs = PlanInputs(
            energy_policy=preferences,
            last_deployment=self._previous_first.get(plan_key, ""),
            deferrable=context.deferral is not None,
            breaker_state=lambda name: self._circuit_breakers.state(name, now=now),
            translator=context.translator,
            tier_target=context.target,
            forecast=self.session_forecasts.forecast(
                task_type, session.call_count, session.warm_caches, now=context.started_at
            ),
            usual_output_tokens=lambda model: self._output_estimates.median_tokens(task_type, model),
            load=load,
            random_draw=self._jitter(),
            deadline_ms=context.deadline_ms,
            tier_policies=snapshot.tier_policies(context.route, context.caller.key),
            is_lookup=context.is_lookup,
        )
        plan = planning.make_plan(context.route, context.request, features, inputs)
        if isinstance(plan, Refusal) or dry_run or context.is_lookup:
            return plan
        if preferences.reorders:
            # Bounded by routes x task types x tiers.
            self._previous_first[plan_key] = plan.attempts[0].deployment.name
        return (
            planning.prefer_other_tier(plan, session.tier_move)
            if session.tier_move
            else self._skip_doubted_tier(context, plan, now)
        )

    def deferral(self, identified: IdentifiedRequest, task_type: str) -> Deferral | None:
        """How long a request may wait: by its header, else by its task type.

        A header of 0 means not at all.
        Pass-through, background and shadow requests never wait.
        """
        request, requested_seconds = identified.request, identified.hints.defer_seconds
        if request.passthrough is not None or request.is_background or identified.caller.key == SHADOW_KEY:
            return None
        rule = identified.snapshot.energy_policy.for_task_type(task_type).deferral
        if requested_seconds is None:
            return rule
        if not requested_seconds:
            return None
        return (
            Deferral(wait_seconds_max=requested_seconds, gain_share_min=rule.gain_share_min)
            if rule
            else Deferral(wait_seconds_max=requested_seconds)
        )

    def expected_seconds(self, context: RequestContext, attempt: Attempt) -> float:
        """Usual duration of such a call, in seconds.

        Without the time to first byte for a deployment that was not called yet.
        """
        usual_tokens = (
            self._output_estimates.median_tokens(context.classification.task_type, attempt.deployment.model)
            * context.request.choice_count
        )
        load = self.loads.load(attempt.deployment.name, context.features.input_tokens, now=0.0)
        return (load.first_byte_ms + min(usual_tokens, attempt.output_tokens_max) * planning.OUTPUT_TOKEN_MS) / 1000

    def can_escalate(self, context: RequestContext, attempts: Sequence[Attempt], index: int) -> bool:
        """Whether an answer of this attempt may escalate to a higher tier."""
        return self._escalation_index(context, attempts, index) is not None

    def _escalation_index(self, context: RequestContext, attempts: Sequence[Attempt], index: int) -> int | None:
        """Index of the attempt to escalate to, None for no escalation.

        Streams never escalate, because what was sent cannot be taken back.
        """
        policy, request = context.snapshot.cascade, context.request
        if (
            not policy.is_enabled
            or context.target is None
            or request.stream
            or request.dialect not in CONVERSATION_DIALECTS
        ):
            return None
        if request.is_background or request.referenced_ids or request.conversation_id or context.features.affinities:
            # State at the provider would be created twice.
            return None
        return next_higher_tier(attempts, index)

    def fails_verification(self, context: RequestContext, progress: AttemptProgress, *, now: float) -> bool:
        """Whether a whole answer fails verification, with time left for another.

        Records how often that happens.
        """
        assert progress.parsed_answer is not None, "the answer was parsed for verification"
        deadline = context.deadline_ms
        if deadline is not None and (now - context.started_monotonic) * 1000 >= deadline / 2:
            return False
        progress.failed_checks = failed_checks(progress.parsed_answer, parse_output_constraints(context.request))
        classification = context.classification
        self.cascades.record_verified(
            classification.task_type, classification.complexity, doubtful=bool(progress.failed_checks)
        )
        return bool(progress.failed_checks)

    def _skip_doubted_tier(self, context: RequestContext, plan: Plan, now: float) -> Plan:
        """Start at the higher tier where escalating so often would cost more."""
        higher = self._escalation_index(context, plan.attempts, 0)
        if higher is None:
            return plan
        classification, prior = context.classification, context.snapshot.cascade.escalation_share_prior
        share = self.cascades.doubtful_share(classification.task_type, classification.complexity, prior)
        if cascade_pays(plan.attempts[0], plan.attempts[higher], share) or self.cascades.should_explore():
            return plan
        if self._circuit_breakers.state(plan.attempts[higher].deployment.name, now=now).deprioritized:
            return plan
        first = plan.attempts[higher]
        first = structs.replace(first, reason=f"{first.reason}, {share:.0%} of lower-tier answers fail verification")
        rest = [attempt for index, attempt in enumerate(plan.attempts) if index != higher]
        return Plan(attempts=(first, *rest), excluded=plan.excluded)

    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None:
        """Record an ended call: tier served, prompt cache, course of the session."""
        if context.caller.key == SHADOW_KEY:
            # Shadow calls say nothing about the course of real sessions.
            return
        if context.target is not None and entry.final and entry.tier in Tier.__members__:
            self.tier_targets.record_served(context.target, Tier[entry.tier], context.route.reference.tier)
        if progress.outcome != "completed" or entry.usage_basis != "exact" or context.request.passthrough is not None:
            return
        session, name, now = context.session, entry.deployment, context.started_at
        cached_prefix = session.warm_caches.get(name)
        if cached_prefix is not None and cached_prefix.expires_at > now:
            self.session_forecasts.record_cache_read(
                name, min(cached_prefix.tokens, entry.input_tokens), entry.cached_input_tokens
            )
        previous_tokens = session.input_tokens
        needed_higher_tier = context.target is not None and context.target.tier > context.route.lowest_tier
        self.session_forecasts.record_call(
            entry.task_type,
            session.call_count,
            needs_higher_tier=needed_higher_tier,
            previous_needed_higher_tier=session.last_needed_higher_tier,
            grown_tokens=entry.input_tokens - previous_tokens if previous_tokens else 0,
        )
        session.last_needed_higher_tier = needed_higher_tier
        session.input_tokens = entry.input_tokens
        seconds = CACHE_SECONDS_LONG if context.features.writes_long_cache else CACHE_SECONDS
        if name not in session.warm_caches and len(session.warm_caches) >= _WARM_CACHES_MAX:
            session.warm_caches.pop(next(iter(session.warm_caches)))
        session.warm_caches[name] = CachedPrefix(
            tokens=entry.input_tokens + entry.output_tokens, expires_at=now + seconds
        )
