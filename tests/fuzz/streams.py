"""Streams that use columns in every role, with valid records and labels as seeds."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from driftline.config.stream import Stream, loads
from driftline.config.stream_sections import AT

_HEAD: Final = 'version = 1\nname = "{name}"\ntask = "{task}"\ntarget = "y"\n'

_BODIES: Final[dict[str, tuple[str, str]]] = {
    # name: (task, the rest of the stream file)
    "rows": (
        "classification",
        'features = { x = "number", c = "category" }\nrecord = { id = "id", key = "c" }\n',
    ),
    "rfc3339": (
        "classification",
        'features = { x = { kind = "number", min = 0 }, c = "category" }\n'
        'record = { id = "id" }\ntime = { column = "t", format = "rfc3339" }\n'
        'windows = { span = "1h" }\nderived = { d = "x / 2 + 1" }\n',
    ),
    "unix": (
        "regression",
        'features = { x = "number" }\nrecord = { id = "id", missing = "dead_letter" }\n'
        'time = { column = "t", format = "unix_ms" }\nwindows = { span = "1h" }\n',
    ),
    "pattern": (
        "classification",
        'features = { x = "number" }\nrecord = { id = "id", unknown_columns = "refuse" }\n'
        'time = { column = "t", format = "%Y-%m-%d %H:%M:%S.%f" }\nwindows = { records = 100 }\n',
    ),
    "steps": (
        "classification",
        'features = { x = "number" }\nrecord = { id = "@row" }\n'
        'time = { start = 2024-01-01T00:00:00Z, step = "30m" }\nwindows = { span = "1d" }\n',
    ),
    # One column is feature, id, key and time at once.
    "shared": (
        "regression",
        'features = { x = "number" }\nrecord = { id = "x", key = "x" }\n'
        'time = { column = "x", format = "unix_s" }\nwindows = { span = "1h" }\n',
    ),
    # msgspec does not accept these names as fields, so they are decoded through a dict.
    "quoted": (
        "classification",
        "features = { 'x\"y' = \"number\", 'c\\d' = \"category\" }\nrecord = { id = 'i\"d' }\n",
    ),
}
NAMES: Final = tuple(_BODIES)

_VALUES: Final[dict[str, dict[str, object]]] = {
    "rows": {"id": "r1", "@row": 7, "x": 1.5, "c": "red"},
    "rfc3339": {"id": "r1", "@row": 7, "t": "2024-01-02T03:04:05Z", "x": 1.5, "c": "red"},
    "unix": {"id": 12, "@row": 7, "t": 1_700_000_000_000, "x": 1.5},
    "pattern": {"id": "r1", "@row": 7, "t": "2024-01-02 03:04:05.678", "x": 1.5},
    "steps": {"@row": 7, "x": 1.5},
    "shared": {"@row": 7, "x": 1_700_000_000},
    "quoted": {'i"d': "r1", "@row": 7, 'x"y': 1.5, "c\\d": "red"},
}


def text(name: str) -> str:
    """Return the text of the stream file."""
    task, body = _BODIES[name]
    return _HEAD.format(name=name, task=task) + body


def texts() -> list[bytes]:
    """Return all stream files, and one with every section."""
    full = text("rfc3339") + _SECTIONS
    return [*(text(name).encode() for name in NAMES), full.encode()]


@cache
def stream(name: str) -> Stream:
    """Return the stream."""
    return loads(text(name))


def records(name: str) -> Callable[[], Sequence[bytes]]:
    """Return a function that makes records: valid, with an extra column, as texts, all null."""
    values = _VALUES[name]
    other = {key: str(value) for key, value in values.items() if key != "@row"}
    return lambda: [
        json.dumps(values).encode(),
        json.dumps({**values, "more": [1, {"a": None}]}).encode(),
        json.dumps({**other, "@row": 8}).encode(),
        json.dumps(dict.fromkeys(values)).encode(),
    ]


def labels(name: str) -> Callable[[], Sequence[bytes]]:
    """Return a function that makes valid labels."""
    known = stream(name)
    id, value = known.record.id, _VALUES[name]
    fields: dict[str, object] = {id: value[id], "y": "a" if known.task != "regression" else 2.5}
    if known.record.key in value:
        fields[known.record.key] = value[known.record.key]
    at = 9 if known.axis == "row" else "2024-01-02T03:04:05.000001Z"
    return lambda: [json.dumps(fields).encode(), json.dumps({**fields, AT: at}).encode()]


def letters() -> Sequence[bytes]:
    """Return the headers of dead letters, with one header per line."""
    return [b"no JSON\ninference\ns.features\n3\n12", b"late label\noutcomes\ns.labels\n0\n0"]


def commits() -> Sequence[bytes]:
    """Return examples of the metadata of committed offsets."""
    return [
        b'{"published": 25}',
        b'{"published":3,"before":2,"reached":9,"passed":4,"watermark":5,"token":"ab"}',
        b'{"watermark":5,"source":3,"closed":1,"published":9,"grid":"50/20","log":"x"}',
        b'{"published":9,"data":{"closed":4,"low":3,"passed":[0,null]},"grid":"40/20"}',
        b'{"watermark":7,"clock":{"reached":7,"steps":[1,2],"ahead":[99]},"sequence":3}',
        b"",
    ]


def words() -> Sequence[bytes]:
    """Return words of stream files that are not JSON values."""
    return [
        *(b'"1h"', b'"1h30m"', b'"-1s"', b'"0s"', b'"9999999999999d"', b'"1 records"', b'"1e400s"'),
        *(b"2024-01-01", b"2024-01-01T00:00:00", b"0001-01-01T00:00:00+23:00", b"inf", b"nan"),
        *(b"9999-12-31T23:59:59-23:00", b"07:32:00", b"0xffffffffffffffffff", b"''", b'"""x"""'),
        *(b"[windows]", b"[record]", b"[[features]]", b"[time]", b"features", b"derived", b"="),
        *(b"x = 1", b"{ records = 10 }", b'"number"', b'"category"', b'"drift"', b'"schedule"'),
        *(b'"x + y"', b'"x ** 99999999"', b"\"__import__('os')\"", b'"log(x)"', b'"x/0"', b'"d"'),
        *(b'"@row"', b'"@id"', b'"@at"', b'"../evil"', b'"a b"', b'"%Y"', b'"%Q"', b'"%Y%Y"'),
    ]


_SECTIONS: Final = """
metric = "balanced_accuracy"
baseline = "previous_label"

[labels]
horizon = "2h"

[drift]
block = "10m"

[retrain]
policy = "schedule"
every = "1d"
cooldown = "1h"
train_on = "7d"
min_outcomes = 200
budget = { requests = 3, per = "1d" }

[models]
candidates = ["logistic_regression", "decision_tree"]
tune = false

[kafka]
topic_prefix = "team-"
partitions = 3
replication_factor = 1
retention = "30d"
inference_delivery = "exactly_once"

[simulate]
label_delay = { distribution = "exponential", mean = "1h" }
label_missing = 0.1
"""
