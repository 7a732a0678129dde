"""Save the topics of a run that deviates, so that the reason can be found."""

import gzip

import msgspec

from tests.faults.site import Site


class _Kept(msgspec.Struct, frozen=True):
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    headers: dict[str, str]
    value: str | None


def keep(site: Site) -> None:
    """Write each topic to `topics/<role>.jsonl.gz` in the folder of the run."""
    folder = site.folder / "topics"
    folder.mkdir(exist_ok=True)
    for topic in site.topics.plan():
        with gzip.open(folder / f"{topic.role}.jsonl.gz", "wb", compresslevel=1) as file:
            for message in site.messages(topic.name):
                kept = _Kept(
                    message.partition,
                    message.offset,
                    message.timestamp_ms,
                    _text(message.key),
                    {name: _text(value) or "" for name, value in message.headers},
                    _text(message.value),
                )
                file.write(msgspec.json.encode(kept) + b"\n")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
