"""Check the installation, local services' state files, the broker, its topics and the champion.

Input: settings, `Workers` from the state files, a broker, and optionally a stream. Output: `Check`
results, which explain how to fix each problem. This module also checks keys and the model store.
To test the store, it writes an empty file and removes it. It changes nothing else.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from typing import Literal

import msgspec

from driftline.audit.partition_placement import Placement, Side
from driftline.broker.port import Admin, Broker, Message, OffsetRange
from driftline.broker.scan import scan
from driftline.config.settings import Settings
from driftline.config.spans import Span
from driftline.config.stream import Stream
from driftline.errors import (
    BrokerError,
    DataError,
    DriftlineError,
    PackageError,
    SettingsError,
    UnsupportedCodec,
)
from driftline.models.keys import Signer, Trusted, is_open
from driftline.ops.workers import Workers
from driftline.wire.envelope import dead_letter_origin, decode_or_skip
from driftline.wire.events import Freeze, RejectedRecord, RolePointer
from driftline.wire.topics import SERVICES, Topics, differences

Result = Literal["ok", "warn", "fail"]

_OLDEST_PYTHON = (3, 11)
# Library → the extra that installs the library, and the library's purpose.
_EXTRAS = {
    "confluent-kafka": ("librdkafka", "the faster Kafka client"),
    "onnxruntime": ("onnx", "scoring with ONNX"),
    "skl2onnx": ("onnx", "converting models to ONNX"),
    "evidently": ("evidently", "more drift tests, and HTML reports of windows that drifted"),
    "jgo": ("local-broker", "`driftline broker up`"),
}
_DAY_MS = 86_400_000
# Number of newest records to read from each partition. Their keys show how producers choose
# partitions.
_NEWEST = 50
# The check fails if a partition ends with at least this many consecutive dead letters, because new
# records will then probably be rejected as well.
_FEWEST_REJECTED = 20


class _DeadLetterMark(msgspec.Struct, frozen=True):
    """The fields that show whether an event is a watermark that reports a dead letter."""

    type: str
    dead_letter: RejectedRecord | None = None


_accounts = msgspec.json.Decoder(_DeadLetterMark)


class Check(msgspec.Struct, frozen=True):
    """The result of one check. `todo` is empty if the result is ok."""

    name: str
    result: Result
    found: str
    todo: str = ""


def check_installation() -> Iterator[Check]:
    """Check Python, the required libraries, and the optional libraries that extras install."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        yield Check("Python", "ok", version)
    else:
        yield Check("Python", "fail", version, "install Python 3.11 or later")
    missing = [name for name in _required() if _version(name) is None]
    if missing:
        todo = "pip install --upgrade driftline"
        yield Check("libraries", "fail", f"missing: {', '.join(missing)}", todo)
    else:
        yield Check("libraries", "ok", f"driftline {_version('driftline')} and its requirements")
    for name, (extra, purpose) in _EXTRAS.items():
        if (found := _version(name)) is None:
            todo = f"pip install 'driftline[{extra}]' for {purpose}"
            yield Check(name, "warn", "not installed", todo)
        else:
            yield Check(name, "ok", found)


def check_models(settings: Settings) -> Iterator[Check]:
    """Check the signing key, the trusted keys and the model store."""
    trusted = Trusted(settings.keys).ids()
    try:
        signer = Signer(settings.keys).key_id
        yield Check("signing key", "ok", f"{signer} in {settings.keys}")
        if is_open(settings.keys):
            todo = f"run `chmod 600 {settings.keys / 'signing.pem'}`"
            yield Check(
                "signing key's permissions", "warn", "other users may read or change it", todo
            )
        if signer not in trusted:
            todo = f"run `driftline keys trust {settings.keys / 'signing.pub'}`"
            yield Check("own key trusted", "fail", f"{signer} is not trusted here", todo)
    except SettingsError as error:
        todo = "run `driftline keys new` if this machine trains models; inference needs no key"
        yield Check("signing key", "warn", error.message, todo)
    if trusted:
        yield Check("trusted keys", "ok", ", ".join(trusted))
    else:
        todo = "no model can be loaded; run `driftline keys new`, or `driftline keys trust KEY`"
        yield Check("trusted keys", "fail", f"none in {settings.keys}", todo)
    try:
        _probe_store(settings.model_store)
        yield Check("model store", "ok", f"{settings.model_store} can be read and written")
    except (OSError, ImportError, ValueError) as error:
        # OSError: permission denied, or the location does not exist. ImportError: fsspec's driver
        # for the protocol is not installed. ValueError: unknown protocol.
        todo = "set DRIFTLINE_MODEL_STORE to a folder or URL that can be read and written"
        yield Check("model store", "fail", f"{settings.model_store}: {error}", todo)


def check_services(here: Workers) -> Iterator[Check]:
    """Use state files to check the stream's services on this machine."""
    if here.supervisor == "ended":
        yield Check("supervisor", "fail", "it has ended", "`driftline up` starts another one")
    missing = here.missing()
    if missing:
        found = (
            "none is running on this machine"
            if len(missing) == len(SERVICES)
            else f"not running on this machine: {', '.join(missing)}"
        )
        yield Check("services", "warn", found, "run `driftline up`, unless they run elsewhere")
    for worker in here.workers:
        if worker.problem:
            todo = f"see {worker.name}.log and {worker.name}.err in {here.folder}"
            yield Check(worker.name, "fail", worker.problem, todo)
        elif worker.outdated:
            found = "it started with an earlier version of the stream file"
            yield Check(worker.name, "warn", found, "run `driftline down`, then `driftline up`")
        elif worker.alive:
            yield Check(
                worker.name, "ok", f"{worker.state.state}, restarted {worker.restarts} times"
            )


def check_broker(settings: Settings, broker: Broker, stream: Stream | None) -> Iterator[Check]:
    """Check the broker and, if a stream is given, the stream's topics and champion."""
    where = settings.bootstrap_servers
    try:
        admin = broker.admin()
    except DriftlineError as error:
        todo = error.hint or "run `driftline broker up` for a local broker, or use -b for another"
        yield Check("broker", "fail", error.message, todo)
        return
    try:
        yield Check("broker", "ok", f"{_broker_version(settings)} at {where}, by {settings.client}")
        if stream is not None:
            yield from _check_topics(admin, stream)
            yield from _check_history(admin, stream)
            yield from _check_placement(admin, broker, stream)
            yield from _check_rejected(admin, broker, stream)
            if admin.describe([Topics(stream).models]):
                yield from _check_champion(settings, broker, stream)
    except (BrokerError, UnsupportedCodec) as error:
        yield Check("broker", "fail", error.message, error.hint or f"see the log of {where}")
    finally:
        admin.close()


def _check_topics(admin: Admin, stream: Stream) -> Iterator[Check]:
    topics = Topics(stream)
    wrong = differences(admin, topics)
    if not wrong:
        yield Check("topics", "ok", f"all ten topics of {stream.name} are as planned")
    if missing := [d.topic for d in wrong if d.found is None]:
        found = f"{len(missing)} are missing: {', '.join(missing)}"
        yield Check("topics", "fail", found, "run `driftline topics apply`")
    for difference in wrong:
        if difference.found is not None:
            found = f"{difference.topic}: {difference.what} is {difference.found}"
            todo = (
                f"planned {difference.planned}: change the stream file, or the topic with Kafka's"
            )
            result: Result = "warn" if difference.keeps_more else "fail"
            yield Check("topics", result, found, f"{todo} own tools")
    for name, limit in sorted(topics.limited_by_size(admin).items()):
        found = f"{name}: retention.bytes is {limit}, so records may be deleted too early"
        todo = "set it to -1, or large enough for all records within retention.ms"
        yield Check("topics", "warn", found, todo)


def _check_history(admin: Admin, stream: Stream) -> Iterator[Check]:
    """Check that existing topics retain records for as long as the services need them."""
    topics = Topics(stream)
    hot = (topics.features, topics.labels, topics.predictions, topics.outcomes)
    infos = admin.describe(hot)
    if not infos:
        return
    kept_ms = [int(info.config.get("retention.ms", "-1")) for info in infos.values()]
    shortest_ms = min((kept for kept in kept_ms if kept >= 0), default=None)
    needs = (
        ("[labels] horizon", stream.labels.horizon),
        ("[retrain] train_on", stream.retrain.train_on),
    )
    for name, span in needs:
        if span is None:
            continue  # the more outcomes the topics keep, the better
        yield _check_retention(name, span, shortest_ms)


def _check_placement(admin: Admin, broker: Broker, stream: Stream) -> Iterator[Check]:
    """Check, using the newest keys, that labels are in the same partitions as their records."""
    topics = Topics(stream)
    if len(admin.describe([topics.features, topics.labels])) < 2:
        return
    placement = Placement(stream.kafka.partitions)
    sides: tuple[tuple[Side, str], ...] = (("records", topics.features), ("labels", topics.labels))
    for side, topic in sides:
        for message in _newest(admin, broker, topic):
            placement.see(side, message.partition, [message.key])
    name = "partitions of labels"
    if (problem := placement.problem) is not None:
        yield Check(name, "fail", problem, "`driftline reconcile` lists the labels")
    else:
        yield Check(name, "ok", "no misplaced labels were found")


def _check_rejected(admin: Admin, broker: Broker, stream: Stream) -> Iterator[Check]:
    """Check that the newest records and labels in each partition were not all rejected."""
    topics = Topics(stream)
    if len(admin.describe([topics.predictions, topics.outcomes, topics.deadletters])) < 3:
        return
    # (source topic, partition) → reason of the newest dead letter.
    reasons: dict[tuple[str, int], str] = {}
    for message in _newest(admin, broker, topics.deadletters):
        with contextlib.suppress(DataError):
            origin = dead_letter_origin(message)
            reasons[origin.topic, origin.partition] = origin.reason
    name, found = "rejected records", []
    for source, topic, what in (
        (topics.features, topics.predictions, "records"),
        (topics.labels, topics.outcomes, "labels"),
    ):
        # Partition → number of consecutive dead letters at its end.
        rejected: Counter[int] = Counter()
        for message in _newest(admin, broker, topic):
            event = decode_or_skip(_accounts, message)
            if event is None or event.type != "watermark":
                rejected[message.partition] = 0
            elif event.dead_letter is not None:
                rejected[message.partition] += 1
        found += [
            f"the last {count} {what} of partition {partition} were all rejected: "
            f"{reasons.get((source, partition), 'the reason is no longer among the dead letters')}"
            for partition, count in sorted(rejected.items())
            if count >= _FEWEST_REJECTED
        ]
    for problem in found:
        yield Check(name, "fail", problem, "correct the producer; see `driftline deadletters list`")
    if not found:
        yield Check(name, "ok", "no partition has only rejected records at its end")


def _newest(admin: Admin, broker: Broker, topic: str) -> Iterator[Message]:
    """Yield each partition's newest records, in offset order."""
    newest = {
        partition: OffsetRange(max(span.start, span.end - _NEWEST), span.end)
        for partition, span in admin.offsets(topic).items()
    }
    for messages in scan(broker, newest):
        yield from messages


def _check_retention(name: str, span: Span | None, shortest_ms: int | None) -> Check:
    label = f"retention for {name}"
    kept = "forever" if shortest_ms is None else f"for {shortest_ms / _DAY_MS:g} days"
    if span is None or span.us is None:
        # The span is measured in records, so the time that it covers is unknown.
        return Check(label, "ok", f"{span}, topics keep records {kept}")
    if shortest_ms is not None and shortest_ms < span.us // 1000:
        todo = "raise [kafka] retention in the stream file, and retention.ms of the topics"
        return Check(label, "fail", f"{span}, but topics keep records {kept}", todo)
    return Check(label, "ok", f"{span}, topics keep records {kept}")


def _check_champion(settings: Settings, broker: Broker, stream: Stream) -> Iterator[Check]:
    from driftline.models.catalog import CHAMPION_KEY, read_catalog
    from driftline.models.load import ModelLoader

    topics = Topics(stream)
    catalog = read_catalog(broker, topics, Trusted(settings.keys))
    for key, why in catalog.rejected.items():
        todo = f"find out who writes to {topics.models}; a trainer with a trusted key repairs it"
        yield Check("models topic", "warn", f"{key} is ignored: {why}", todo)
    if any(isinstance(event, RolePointer | Freeze) for event in catalog.restatements()):
        todo = "start the trainer, or run `driftline models sign`; both sign it"
        yield Check("pointers", "warn", "the newest pointer or freeze is unsigned", todo)
    if catalog.lost is not None:
        found, _, todo = catalog.lost.partition("; ")
        yield Check("models topic", "fail", found, todo)
    lineage = catalog.lineage()
    if not lineage and CHAMPION_KEY in catalog.rejected:
        todo = "run `driftline keys trust KEY` if it is the trainer's key, then restart inference"
        yield Check("champion", "fail", f"none: {catalog.rejected[CHAMPION_KEY]}", todo)
        return
    if not lineage:
        todo = "run `driftline train --data DATA` for the first model; inference waits for it"
        yield Check("champion", "warn", "none yet", todo)
        return
    models = ModelLoader.of(settings, stream)
    failure: PackageError | None = None
    for digest in lineage:
        try:
            models.fetch(catalog.announcements.get(digest, digest))
        except PackageError as error:
            failure = failure or error
            continue
        if failure is None:
            yield Check("champion", "ok", f"{digest}: digest and signature are valid")
        else:
            found = f"{failure.message}; its ancestor {digest} is used after a restart"
            yield Check("champion", "fail", found, failure.hint or "train a new model")
        return
    if failure is not None:
        found = f"{failure.message}; none of its ancestors can be used either"
        yield Check("champion", "fail", found, failure.hint or "train a new model")


def _probe_store(url: str) -> None:
    import fsspec

    files, root = fsspec.core.url_to_fs(url)
    path = f"{root.rstrip('/')}/doctor-was-here"
    files.makedirs(root, exist_ok=True)
    files.pipe_file(path, b"")
    files.cat_file(path)
    files.rm_file(path)


def _broker_version(settings: Settings) -> str:
    """Return the broker's kind and version.

    kafka-python derives the version from the requests that the broker supports.
    """
    import kafka

    from driftline.config.client_properties import for_kafka_python

    if settings.client == "memory":
        return "the in-memory broker"
    known = kafka.KafkaAdminClient.DEFAULT_CONFIG
    others = (kafka.KafkaProducer.DEFAULT_CONFIG, kafka.KafkaConsumer.DEFAULT_CONFIG)
    try:
        properties = for_kafka_python(settings.properties, (known, *others))
    except SettingsError:
        return "Apache Kafka of unknown version"  # kafka-python rejects librdkafka's properties
    client = kafka.KafkaAdminClient(
        bootstrap_servers=settings.bootstrap_servers.split(","),
        **{name: value for name, value in properties.items() if name in known},
    )
    try:
        node = client.describe_cluster()["controller_id"]
        version = client.get_broker_version_data(node).broker_version
    except kafka.errors.KafkaError:
        return "Apache Kafka of unknown version"  # this user has no right to describe the cluster
    finally:
        client.close()
    return "Apache Kafka " + ".".join(str(part) for part in version)


def _required() -> list[str]:
    """Return the names of the libraries that Driftline requires even without extras."""
    return [
        line.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        for line in metadata.requires("driftline") or ()
        if "extra ==" not in line
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
