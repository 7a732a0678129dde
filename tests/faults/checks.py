"""Check what must hold at the end of a run, whatever was killed during it.

In: a site whose services have stopped. Out: a text for each deviation; none if all checks pass.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from driftline.audit.reconcile import Reconciliation, reconcile
from driftline.models.catalog import Catalog
from driftline.models.keys import Trusted
from driftline.wire.envelope import decode, retrain_decoder
from driftline.wire.events import ModelAnnounced, RetrainDecision, RetrainRequest
from tests.faults.site import Site
from tests.replay import Written

_NAMED = 5


class _Window(msgspec.Struct, frozen=True):
    type: str
    id: str
    late: int = 0


class Asked(msgspec.Struct, frozen=True):
    """Retrain requests with their decisions and models."""

    requests: tuple[str, ...]
    decisions: Counter[str]  # request → how often it was answered
    models: Counter[str]  # request → models announced for it


def of_records(site: Site, records: int, labels: int) -> tuple[Reconciliation, list[str]]:
    """Check that each record became one prediction and each label one outcome."""
    found = reconcile(site.broker, site.stream)
    wanted = {
        "records": records,
        "predictions": records,
        "outcomes": labels,
        "dead_letters": 0,
        "waiting": 0,
        "missing": 0,
        "revised": 0,
        "doubled_outcomes": 0,
    }
    if site.scenario.delivery == "exactly_once":
        wanted["redelivered"] = 0
    wrong = [
        f"reconcile: {name} is {getattr(found, name)}, not {count}"
        for name, count in wanted.items()
        if getattr(found, name) != count
    ]
    joined = {"total": labels, "joined": labels, "missing": 0, "dead_letters": 0}
    wrong += [
        f"reconcile: labels.{name} is {getattr(found.labels, name)}, not {count}"
        for name, count in joined.items()
        if getattr(found.labels, name) != count
    ]
    wrong += [f"missing: {item}" for item in (*found.missing_records, *found.missing_labels)]
    return found, wrong


def published_twice(live: Written) -> list[str]:
    """Check that windows and drift events exist once each."""
    return [*_twice("windows", live.windows), *_twice("drift", live.drift)]


def of_monitor(live: Written, again: Written, keep: Path) -> list[str]:
    """Check that windows and drift events exist once each and equal those of a fresh monitor."""
    wrong = published_twice(live)
    for name, ours, theirs in (
        ("windows", live.windows, again.windows),
        ("drift", live.drift, again.drift),
    ):
        only_live, only_again = set(ours) - set(theirs), set(theirs) - set(ours)
        if only_live or only_again:
            wrong.append(
                f"{name}: {len(ours)} live, {len(theirs)} replayed; {len(only_live)} only live "
                f"({_first(only_live)}), {len(only_again)} only replayed ({_first(only_again)})"
            )
        (keep / f"{name}-live.jsonl").write_bytes(b"\n".join(ours))
        (keep / f"{name}-replayed.jsonl").write_bytes(b"\n".join(theirs))
    return wrong


def dead_letters(site: Site) -> list[str]:
    """Count dead letters by reason, with the numbers in the reason replaced by N."""
    reasons = Counter(
        re.sub(r"[0-9][0-9,.]*", "N", value.decode(errors="replace"))
        for message in site.messages(site.topics.deadletters)
        for name, value in message.headers
        if name == "driftline_reason" and value is not None
    )
    return [f"{count} dead letters: {reason[:200]}" for reason, count in reasons.most_common(5)]


def late(written: Written) -> int:
    """Count records that were late for their window. The data are in order, so none should be."""
    decoder = msgspec.json.Decoder(_Window)
    return sum(decoder.decode(value).late for value in written.windows)


def asked(site: Site) -> Asked:
    """Read requests, decisions and models from their topics."""
    requests, decisions, models = [], Counter[str](), Counter[str]()
    for message in site.messages(site.topics.retrain):
        event = decode(retrain_decoder, message)
        if isinstance(event, RetrainRequest):
            requests.append(event.id)
        elif isinstance(event, RetrainDecision):
            decisions[event.request] += 1
    catalog = Catalog(Trusted(site.settings.keys))
    for message in site.messages(site.topics.models):
        told = catalog.apply(message)
        if isinstance(told, ModelAnnounced) and told.cause is not None:
            models[told.cause] += 1
    return Asked(tuple(requests), decisions, models)


def of_trainer(found: Asked, waiting: Iterable[str]) -> list[str]:
    """Check that each request was answered once, with at most one model.

    Requests in `waiting` may be unanswered.
    """
    wrong = _twice("retrain request", found.requests)
    for request in found.requests:
        answers = found.decisions[request]
        if answers != 1 and not (answers == 0 and request in waiting):
            wrong.append(f"{request} was answered {answers} times")
    wrong += [f"{n} models for {request}" for request, n in found.models.items() if n > 1]
    unasked = set(found.decisions) - set(found.requests)
    return wrong + [
        f"a decision on {request}, which nobody requested" for request in sorted(unasked)
    ]


def _twice(what: str, items: Iterable[object]) -> list[str]:
    again = {item: count for item, count in Counter(items).items() if count > 1}
    if not again:
        return []
    return [f"{what}: {len(again)} published more than once, such as {_first(again)}"]


def _first(items: Iterable[object]) -> str:
    return "; ".join(_short(item) for item, _ in zip(items, range(_NAMED), strict=False)) or "none"


def _short(item: object) -> str:
    return str(item)[:200]


def waiting(logs: Path, requests: Iterable[str]) -> Iterator[str]:
    """Yield the requests for which the trainer logged that it waits for more outcomes."""
    said = (logs / "trainer-0.log").read_text(encoding="utf-8", errors="replace")
    for request in requests:
        if f"request {request} waits" in said:
            yield request
