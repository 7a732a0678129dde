"""Training records are stored as a file, within limits."""

import msgspec
import pytest

from driftline.errors import PackageCheckFailed
from driftline.models import training_records
from driftline.models.archive import write_archive
from driftline.models.training_records import NewestRecords, decode_records
from tests.training import record


def encoded(*records: bytes) -> bytes | None:
    newest = NewestRecords()
    for value in records:
        newest.add(value, "yes")
    return newest.encode()


def decoded(data: bytes | None) -> list[bytes]:
    assert data is not None
    return [bytes(item.record) for item in decode_records(data)]


def test_decoding_returns_records_and_labels() -> None:
    newest = NewestRecords()
    newest.add(record(1), "yes")
    newest.add(record(2), 0.5)
    data = newest.encode()
    assert data is not None
    assert [item.label for item in decode_records(data)] == ["yes", 0.5]
    assert decoded(data) == [record(1), record(2)]


def test_equal_records_give_equal_bytes() -> None:
    assert encoded(record(1), record(2)) == encoded(record(1), record(2))


def test_the_newest_records_are_kept_if_not_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_records, "MAX_RECORDS_BYTES", 1_000)
    records = [record(i) for i in range(50)]
    kept = decoded(encoded(*records))
    assert 5 < len(kept) < 20
    assert kept == records[-len(kept) :]


def test_line_breaks_are_removed_and_records_that_are_not_json_are_ignored() -> None:
    pretty = msgspec.json.format(record(1), indent=2)
    assert decoded(encoded(pretty, b"{", b"\xff")) == [record(1)]
    assert encoded(b"{") is None


@pytest.mark.parametrize(
    "data",
    [
        b"damaged",
        write_archive({"other": b""}),
        write_archive({"records.jsonl": b"[1"}),
        write_archive({"records.jsonl": b'{"record": {}, "label": 1}'}),
    ],
)
def test_a_damaged_file_is_rejected(data: bytes) -> None:
    with pytest.raises(PackageCheckFailed, match="training records cannot be read"):
        decode_records(data)


def test_a_file_that_unpacks_to_too_much_is_rejected() -> None:
    bomb = write_archive({"records.jsonl": bytes(training_records.MAX_RECORDS_BYTES + 1)})
    with pytest.raises(PackageCheckFailed, match="the limit is"):
        decode_records(bomb)
