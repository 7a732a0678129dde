"""Tables at 80 columns: no line is longer, no word is broken, no value is cut off."""

from io import StringIO

import pytest
from rich.console import Console

from driftline.ops.processes import ServiceState, State
from driftline.ops.workers import Worker
from driftline.wire.topics import Service, Topics
from driftline_app.cli import status, topics
from tests.world import STREAM


def worker(service: Service, state: State, published: dict[str, int], restarts: int = 0) -> Worker:
    said = ServiceState(
        service=service,
        slot=0,
        pid=1,
        born="1",
        state=state,
        started="2026-11-29T20:58:28Z",
        updated="2026-11-29T20:58:28Z",
        published=published,
        consumed=24_345_678,
    )
    return Worker(said, alive=True, restarts=restarts)


def printed(text: str) -> list[str]:
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    return lines


def test_status_of_a_busy_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(status, "stdout", Console(file=out, width=80))
    workers = [
        worker("inference", "waiting for a model", {"predictions": 12_345_678, "deadletters": 12}),
        worker("monitor", "running", {"parts": 123_456, "windows": 9_999}, restarts=3),
    ]

    status._show_workers("elec2", workers, {"inference": "features 12.3k"})

    words = " ".join(printed(out.getvalue())).split()
    assert {"inference-0", "waiting", "predictions", "12.3M", "24.3M", "12.3k"} <= set(words)
    assert {"monitor-0", "running,", "restarts", "9,999", "123k"} <= set(words)


def test_the_plan_of_topics() -> None:
    out = StringIO()
    plan = [topics.PlannedTopic(topic, ()) for topic in Topics(STREAM).plan()]
    Console(file=out, width=80).print(topics._table(plan, wide=False))

    heading, *rows = printed(out.getvalue())

    assert heading.split() == ["topic", "partitions", "retention", "on", "the", "broker"]
    assert [row.split()[0] for row in rows] == [topic.name for topic in Topics(STREAM).plan()]
    assert all(row.rstrip().endswith("as planned") for row in rows)


def test_a_wide_plan_names_keys_writers_and_readers() -> None:
    plan = [topics.PlannedTopic(topic, ()) for topic in Topics(STREAM).plan()]

    headings = [column.header for column in topics._table(plan, wide=True).columns]

    assert headings[2:5] == ["key", "written by", "read by"]
