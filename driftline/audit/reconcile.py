"""Account for every feature record and every label from the topics, and list what is missing.

Input: a broker and a stream. Output: a `Reconciliation`. It uses no counters of services. The data
is in a temporary SQLite file, so that memory does not grow with the topics.

Each record that inference has handled must be the source of a prediction or of a dead letter. Each
label that the join has handled must be in an outcome or a dead letter. Exceptions are labels that
repeat a known one, were replaced before the prediction came, or wait for their prediction. Records
and labels whose results retention may have deleted count as expired, not as missing.
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

# The size of SQLite's page cache. All other pages are on disk.
_CACHE_KIB = 64 * 1024


class Missing(msgspec.Struct, frozen=True):
    """A record or label without a result. `id` is None if it is unreadable."""

    partition: int
    offset: int
    id: str | None


class LabelCounts(msgspec.Struct, frozen=True):
    """The number of labels by result. `total` is the sum of the others."""

    total: int
    joined: int  # labels in an outcome
    repeated: int  # labels that repeat the label before them
    replaced: int  # labels that changed before the prediction arrived, so they were not joined
    dead_letters: int  # labels that are unreadable, or without a prediction in the join window
    waiting: int  # labels that were not read yet, or wait for their prediction
    expired: int  # retention may have deleted their results
    missing: int


class Reconciliation(msgspec.Struct, frozen=True):
    """The results of all records and labels, up to the ends of the topics when counting started.

    records = predictions + dead_letters + waiting + expired + missing
    predictions = outcomes + unlabelled
    """

    stream: str
    records: int
    predictions: int  # records with a prediction; a repeated prediction does not count again
    dead_letters: int  # records without a prediction that were rejected
    waiting: int  # records that inference has not read yet
    expired: int  # retention may have deleted their results
    missing: int
    outcomes: int  # records with a prediction and a label
    unlabelled: int
    revised: int  # changes of labels, each published as a further outcome
    duplicate_ids: int  # records with the id of an earlier one, except replayed records
    replayed: int  # records sent again from a dead letter
    redelivered: int  # repeated predictions of a record, which readers drop
    doubled_outcomes: int  # copies of an outcome, which exactly-once delivery rules out
    labels: LabelCounts
    misplaced_labels: int  # labels in another partition than their record, which are never joined
    foreign_letters: int  # messages among the dead letters that Driftline did not write
    missing_records: tuple[Missing, ...]
    missing_labels: tuple[Missing, ...]
    named_misplaced: tuple[Misplaced, ...] = ()
    foreign_records: int = 0  # predictions and outcomes that Driftline did not write
    # Records that were deleted before they were read. `records` does not include them.
    lost: tuple[Lost, ...] = ()

    @property
    def clean(self) -> bool:
        """Return whether nothing is missing, lost or misplaced, and no outcome is doubled."""
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
    """Read the topics of the stream once and account for every record and label.

    At most `limit` missing records and labels are listed, or all if it is None. `total` is called
    once with the number of offsets to read, and `progress` with the number read since its last
    call. Services may run at the same time. Raises BrokerError.
    """
    topics = Topics(stream)
    # Read the commits before the ends of the logs, so that every committed result is below an end.
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
    """Return the commits of inference, outcomes and monitor, and the ids of their input topics."""
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
