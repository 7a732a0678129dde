"""Read a stream's topics to account for every feature record and label, and list missing results.

Input: a broker and a stream. Output: a `Reconciliation`. The services' own counters are not used.
The topics are loaded into a temporary SQLite file, so that memory use does not grow with their
size.

Each record that inference has handled must have a prediction or a dead letter. Each label that the
join has handled must be in an outcome or a dead letter, unless it repeats the previous label, was
replaced before its prediction arrived, or still waits for its prediction. A record or label counts
as expired, not as missing, if retention may have deleted its result.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from driftline.audit.reconcile_findings import Lost, Misplaced, lost_records, misplaced_labels
from driftline.audit.reconcile_sql import (
    ANALYSIS,
    DOUBLED_OUTCOMES,
    MISPLACED_LABELS,
    MISSING_LABELS,
    MISSING_RECORDS,
    REVISED,
    TABLES,
)
from driftline.audit.reconcile_tables import TableLoader
from driftline.broker.port import Broker, Committed, TopicPartition
from driftline.broker.scan import Progress, ranges, size
from driftline.config.stream import Stream
from driftline.wire.topics import Topics

# Size of SQLite's page cache. Pages that do not fit are read from disk.
_CACHE_KIB = 64 * 1024


class Missing(msgspec.Struct, frozen=True):
    """A record or label without a result. `id` is None if the record or label is unreadable."""

    partition: int
    offset: int
    id: str | None


class LabelCounts(msgspec.Struct, frozen=True):
    """Label counts by result. `total` is the sum of all other counts."""

    total: int
    joined: int  # labels that are in an outcome
    repeated: int  # labels equal to the previous label with the same id
    replaced: int  # labels that a later label replaced before the prediction arrived
    dead_letters: int  # labels that are unreadable or have no prediction within the join window
    waiting: int  # labels that the join has not read yet, or that wait for their prediction
    expired: int  # labels whose results may have been deleted by retention
    missing: int


class Reconciliation(msgspec.Struct, frozen=True):
    """Counts of all records and labels that were in the topics when counting started.

    records = predictions + dead_letters + waiting + expired + missing
    predictions = outcomes + unlabelled
    """

    stream: str
    records: int
    predictions: int  # records with at least one prediction
    dead_letters: int  # rejected records without a prediction
    waiting: int  # records that inference has not read yet
    expired: int  # records whose results may have been deleted by retention
    missing: int
    outcomes: int  # records whose prediction was joined with a label
    unlabelled: int
    revised: int  # label changes, each published as another outcome
    duplicate_ids: int  # records that repeat an earlier record's id, except replayed records
    replayed: int  # records that were resent from dead letters
    redelivered: int  # further predictions for the same record; readers drop them
    doubled_outcomes: int  # duplicate outcomes, which exactly-once delivery should prevent
    labels: LabelCounts
    misplaced_labels: int  # never joined, because they are not in their record's partition
    foreign_letters: int  # messages in `deadletters` that Driftline did not write
    missing_records: tuple[Missing, ...]
    missing_labels: tuple[Missing, ...]
    named_misplaced: tuple[Misplaced, ...] = ()
    foreign_records: int = 0  # `predictions` or `outcomes` messages that Driftline did not write
    # Records that were deleted before a service read them. `records` does not include them.
    lost: tuple[Lost, ...] = ()

    @property
    def clean(self) -> bool:
        """Return whether nothing is missing, lost or misplaced, and no outcome is duplicated."""
        return not (
            self.missing
            or self.labels.missing
            or self.doubled_outcomes
            or self.misplaced_labels
            or self.lost
        )


def reconcile(
    broker: Broker,
    stream: Stream,
    *,
    limit: int | None = 20,
    progress: Progress | None = None,
    total: Progress | None = None,
) -> Reconciliation:
    """Read the stream's topics once and account for every record and label.

    Each list has at most `limit` entries, or all entries if `limit` is None. `total` is called once
    with the number of offsets to read, and `progress` is called repeatedly with the number of
    offsets read since its last call. The services can keep running meanwhile. Raises BrokerError.
    """
    topics = Topics(stream)
    # Fetch the committed offsets first and the logs' end offsets second, so that the logs are read
    # far enough to include every committed result.
    committed, ids = _committed(broker, topics)
    inference, outcomes, _ = committed
    names = (
        topics.features,
        topics.predictions,
        topics.labels,
        topics.outcomes,
        topics.deadletters,
    )
    spans = {name: ranges(broker, [name]) for name in names}
    if total is not None:
        total(sum(size(span) for span in spans.values()))
    with tempfile.TemporaryDirectory(prefix="driftline-reconcile-") as folder:
        database = sqlite3.connect(Path(folder) / "records.sqlite", isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.executescript(TABLES)
            database.execute("BEGIN")
            loader = TableLoader(database, broker, stream, spans, progress, ids[topics.features])
            loader.load({**inference, **outcomes})
            held = {at: span for own in spans.values() for at, span in own.items()}
            lost = {
                (at.topic, at.partition, at.start): at
                for at in (
                    *(at for group in committed for at in lost_records(group, ids, held)),
                    *loader.lost,
                    *loader.logs.lost,
                )
            }
            found = _judge(database, stream, loader.foreign_letters, limit)
            return msgspec.structs.replace(
                found,
                foreign_records=loader.foreign_records,
                lost=tuple(lost[at] for at in sorted(lost)),
            )
        finally:
            database.close()


def _committed(
    broker: Broker, topics: Topics
) -> tuple[list[Mapping[TopicPartition, Committed]], Mapping[str, str]]:
    """Return the committed offsets of the inference, outcomes and monitor groups, and the topics'
    ids."""
    admin = broker.admin()
    try:
        found: list[Mapping[TopicPartition, Committed]] = [
            admin.group_offsets(topics.group(service))
            for service in ("inference", "outcomes", "monitor")
        ]
        read = {at.topic for committed in found for at in committed}
        return found, admin.topic_ids(sorted({topics.features, *read}))
    finally:
        admin.close()


def _judge(
    database: sqlite3.Connection, stream: Stream, foreign_letters: int, limit: int | None
) -> Reconciliation:
    database.executescript(ANALYSIS)

    def count(table: str) -> dict[str, int]:
        rows: Iterable[tuple[str, int]] = database.execute(
            f"SELECT fate, count(*) FROM {table} GROUP BY fate"
        )
        return dict(rows)

    def number(query: str) -> int:
        return int(database.execute(query).fetchone()[0])

    def named(query: str) -> Iterator[Missing]:
        rows = database.execute(query + " LIMIT ?", (-1 if limit is None else limit,))
        return (Missing(*row) for row in rows)

    records, labels = count("record_fates"), count("label_fates")
    predicted = records.get("predicted", 0)
    joined = number("SELECT count(*) FROM record_fates WHERE fate = 'predicted' AND joined")
    return Reconciliation(
        stream=stream.name,
        records=sum(records.values()),
        predictions=predicted,
        dead_letters=records.get("dead letter", 0),
        waiting=records.get("waiting", 0),
        expired=records.get("expired", 0),
        missing=records.get("missing", 0),
        outcomes=joined,
        unlabelled=predicted - joined,
        revised=number(REVISED),
        duplicate_ids=number(
            "SELECT count(id) - count(DISTINCT id) FROM features WHERE NOT replayed"
        ),
        replayed=number("SELECT count(*) FROM features WHERE replayed"),
        redelivered=number("SELECT coalesce(sum(times - 1), 0) FROM predicted"),
        doubled_outcomes=number(DOUBLED_OUTCOMES),
        labels=LabelCounts(
            total=sum(labels.values()),
            joined=labels.get("joined", 0),
            repeated=labels.get("repeated", 0),
            replaced=labels.get("replaced", 0),
            dead_letters=labels.get("dead letter", 0),
            waiting=labels.get("waiting", 0),
            expired=labels.get("expired", 0),
            missing=labels.get("missing", 0),
        ),
        misplaced_labels=number(MISPLACED_LABELS),
        foreign_letters=foreign_letters,
        missing_records=tuple(named(MISSING_RECORDS)),
        missing_labels=tuple(named(MISSING_LABELS)),
        named_misplaced=tuple(misplaced_labels(database, stream, limit)),
    )
