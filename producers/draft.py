"""Draft a stream file as text from a data set's profile, with a comment on every guess."""

import re
from pathlib import Path
from typing import Final

from driftline.config.stream_keys import quoted, quoted_key, toml
from producers.metric_choice import too_few_positives
from producers.profile import Column, DataProfile

# Twenty windows are enough to show when a change occurred. The window size has a lower bound,
# because each window needs enough records for its tests.
_WINDOWS: Final = 20
_LEAST_WINDOW: Final = 200
_LARGEST_WINDOW: Final = 5000


def stream_name(data: str) -> str:
    """Derive a stream name from a data file's name.

    If the file is named `data` or `dataset`, use the name of its folder instead.

    >>> stream_name("data/elec2/data.csv.gz"), stream_name("Bike Sharing.parquet")
    ('elec2', 'bike-sharing')
    """
    path = Path(data)
    stem = path.name.split(".")[0]
    if stem.lower() in ("data", "dataset", "") and path.absolute().parent.name:
        stem = path.absolute().parent.name
    return slug(stem.removeprefix("river:").split(":")[0])


def slug(text: str) -> str:
    """Convert text to a valid stream name: lower-case letters, digits and hyphens.

    >>> slug("My Stream!")
    'my-stream'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "stream"


def draft(profile: DataProfile, name: str) -> str:
    """Return a stream file's text. If the time format was not recognised, the user must add it."""
    sections = [
        _head(profile, name),
        _record(profile),
        _time(profile),
        _features(profile),
        _windows(profile),
        _simulate(profile),
    ]
    return "\n".join(section for section in sections if section)


def window_records(records: int) -> int:
    """Return a twentieth of `records`, limited to 200–5000 and rounded to two significant digits.

    >>> [window_records(records) for records in (150, 45_312, 3_000_000)]
    [200, 2300, 5000]
    """
    size = max(_LEAST_WINDOW, min(_LARGEST_WINDOW, records // _WINDOWS))
    scale = int(10 ** (len(str(size)) - 2))
    return round(size / scale) * scale


def _head(profile: DataProfile, name: str) -> str:
    metric = profile.metric
    why = (
        "the previous label is a better guess than the most frequent one"
        if profile.task == "classification"
        else "the previous value is a better guess than the mean"
    )
    lines = [
        f"# Drafted from {_one_line(Path(profile.source).name)}, {profile.rows} rows. To see "
        "every key and its meaning, run",
        f"# driftline config --stream {name}.toml",
        "version = 1",
        f"name = {quoted(name)}",
        f"task = {quoted(profile.task)}",
        f"target = {quoted(profile.target)}{_classes(profile)}",
        f"# {_one_line(metric.reason)}",
        f"metric = {toml(metric.measure)}  # {metric.others}",
    ]
    if profile.baseline == "previous_label":
        lines.append(f'baseline = "previous_label"  # {why}')
    return "\n".join(lines) + "\n"


def _classes(profile: DataProfile) -> str:
    shown = ", ".join(profile.classes[:8]) + (", …" if len(profile.classes) > 8 else "")
    return "  # " + _one_line(shown) if shown else ""


def _record(profile: DataProfile) -> str:
    lines = ["[record]"]
    if profile.id is None:
        lines.append('id = "@row"  # the rows are numbered')
    else:
        lines.append(f"id = {quoted(profile.id)}")
    if profile.key is not None:
        lines.append(f"key = {quoted(profile.key)}")
    gone = [column for column in profile.columns if column.use in ("dropped", "left_out")]
    if gone:
        lines.append("drop = [")
        for column in gone:
            why = f"  # {_one_line('; '.join(column.notes))}" if column.use == "left_out" else ""
            lines.append(f"    {quoted(column.name)},{why}")
        lines.append("]")
    if profile.missing:
        lines.append('missing = "impute"  # some values are missing; or "dead_letter"')
    return "\n".join(lines) + "\n"


def _time(profile: DataProfile) -> str:
    clock = profile.time
    if clock is None:
        return ""  # without this section, records are numbered
    lines = ["[time]", f"column = {quoted(clock.column)}"]
    if clock.start is not None and clock.step is not None:
        lines.append(f"start = {clock.start}  # check the time of step 0 and the length of a step")
        lines.append(f"step = {quoted(clock.step)}")
    else:
        unknown = "  # not recognised: write a strptime pattern"
        lines.append(f"format = {quoted(clock.format or '?')}{'' if clock.format else unknown}")
    return "\n".join(lines) + "\n"


def _features(profile: DataProfile) -> str:
    lines = ["[features]"]
    lines += [_feature(column) for column in profile.features]
    return "\n".join(lines) + "\n"


def _feature(column: Column) -> str:
    value = quoted(column.kind)
    if not column.watch:
        value = f"{{ kind = {value}, watch = false }}"
    note = f"  # {_one_line('; '.join(column.notes))}" if column.notes else ""
    return f"{quoted_key(column.name)} = {value}{note}"


def _windows(profile: DataProfile) -> str:
    records = window_records(profile.total or profile.records)
    if profile.own_labels:
        records = window_records(profile.records)
    few = too_few_positives(profile.metric, records)
    more = f"; {_one_line(few)}" if few else ""
    return f"[windows]\nrecords = {records}  # about a twentieth of the data{more}\n"


def _simulate(profile: DataProfile) -> str:
    if profile.own_labels:
        delay = '"data"  # a later row with the same id contains the label'
    elif profile.time is None:
        delay = "0  # label delay, in records"
    else:
        delay = '0  # or a duration such as "30m", or a number of records'
    return f"[simulate]  # used when `run` and `produce` replay this data\nlabel_delay = {delay}\n"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
