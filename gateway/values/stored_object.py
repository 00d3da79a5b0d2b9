"""What a provider keeps for a caller: a response, a file, a batch."""

from .base import Value
from .ledger_entry import LedgerEntry


class StoredObject(Value, frozen=True, kw_only=True):
    """Where an object is and whose it is, as replicas and restarts know it.

    org, key: the caller that had it created
    provider, deployment, route: where it was created
    session, session_source, root: session of the request, and the head of its tree
    created_at: seconds since the epoch
    conversation_tokens: input and output tokens of the conversation up to it
    output_tokens: tokens of its own
    unsettled: its ledger entry, while the usage behind that is still to be reported; None: nothing is to be reported
    """

    org: str
    key: str
    provider: str
    deployment: str
    route: str
    session: str
    session_source: str
    root: str
    created_at: float
    conversation_tokens: int = 0
    output_tokens: int = 0
    unsettled: LedgerEntry | None = None


def object_of_entry(entry: LedgerEntry, *, is_unsettled: bool) -> StoredObject:
    """The object that the call of a ledger entry created."""
    return StoredObject(
        org=entry.org,
        key=entry.key,
        provider=entry.provider,
        deployment=entry.deployment,
        route=entry.route,
        session=entry.session,
        session_source=entry.session_source,
        root=entry.root,
        created_at=entry.at_ms / 1000,
        conversation_tokens=entry.input_tokens + entry.output_tokens,
        output_tokens=entry.output_tokens,
        unsettled=entry if is_unsettled else None,
    )
