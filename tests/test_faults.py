"""The harness of `scripts/faults`: its proxy, its results and its table."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.faults import plot, results
from tests.faults.disk import fill
from tests.faults.disturbances import FAULTS
from tests.faults.proxy import Proxy
from tests.faults.results import Result
from tests.faults.soak import Sample, more_threads

TIMEOUT_S = 10.0
RESULT = Result(
    commit="abc",
    at="2026-01-01T00:00:00Z",
    scenario="broker-killed",
    client="librdkafka",
    delivery="exactly_once",
    seed=0,
    workers=1,
    records=1000,
    labels=900,
    deleted=0,
    lost=0,
    duplicated=0,
    redelivered=0,
    restarts=0,
    recovery_s=2.5,
    run_s=30.0,
    deviations=(),
)


@pytest.fixture
def echo() -> Iterator[int]:
    """Return the port of a server that sends back what it receives."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(1000):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy = Proxy(port, echo)
    yield proxy
    proxy.close()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)


def said_back(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(1000)


def is_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_the_proxy_forwards_both_ways(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert said_back(connection, b"one") == b"one"


def test_a_dropped_network_closes_open_connections_and_rejects_new_ones(proxy: Proxy) -> None:
    with connected(proxy) as old:
        assert said_back(old, b"one") == b"one"
        proxy.set("refuse")
        assert is_ended(old)
        with connected(proxy) as new:
            assert is_ended(new)
        proxy.set("pass")
        with connected(proxy) as later:
            assert said_back(later, b"two") == b"two"


def test_bytes_sent_while_the_network_is_silent_arrive_later(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert said_back(connection, b"one") == b"one"
        proxy.set("silent")
        connection.sendall(b"two")
        proxy.set("pass")
        assert connection.recv(1000) == b"two"


def test_a_half_open_connection_is_closed_at_the_end_of_the_fault(proxy: Proxy) -> None:
    with connected(proxy) as old:
        assert said_back(old, b"one") == b"one"
        proxy.set("half")
        with connected(proxy) as new:
            assert said_back(new, b"two") == b"two"
        proxy.set("pass")
        assert is_ended(old)


def test_results_are_appended_to_a_file_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    other = msgspec.structs.replace(RESULT, seed=1, deviations=("lag is not 0",), recovery_s=None)
    for result in (RESULT, other):
        results.append(path, result)
    assert list(results.read(path)) == [RESULT, other]
    assert RESULT.key != other.key
    assert [result.good for result in results.read(path)] == [True, False]


def test_the_table_has_a_row_for_each_scenario_client_and_guarantee() -> None:
    slower = msgspec.structs.replace(RESULT, seed=1, recovery_s=7.5)
    other = msgspec.structs.replace(RESULT, client="kafka-python", lost=3, recovery_s=None)
    lines = results.markdown([RESULT, slower, other]).splitlines()
    assert lines[0].startswith("3 runs, 5,700 records and labels, 3 lost, 0 duplicated, ")
    assert lines[-1] == (
        "| broker-killed | librdkafka | exactly-once | 2 | 2 | 3,800 | 0 | 0 | 0 | 0 | 5.0 | 7.5 |"
    )
    assert lines[-2].split(" | ")[-2:] == ["never", "never |"]


def test_every_fault_disturbs_either_the_cluster_or_a_run() -> None:
    assert all((fault.whole is None) != (fault.single is None) for fault in FAULTS.values())


def test_a_disk_counts_as_full_once_a_write_of_the_harness_fails() -> None:
    refused, over = threading.Event(), threading.Event()
    filling = threading.Thread(target=fill, args=(Path("/dev/full"), refused, over))
    filling.start()
    assert refused.wait(TIMEOUT_S)
    over.set()
    filling.join()


def test_a_plot_has_a_curve_for_each_name() -> None:
    drawn = plot.svg({"lag": {"a": [(0, 0), (1, 5)], "b<": [(0, 1)]}}, [(0.5, "a fault")])
    assert drawn.count("<polyline") == 2
    assert "b&lt;" in drawn


def test_a_soak_reports_threads_that_do_not_end() -> None:
    def samples(threads: Callable[[int], int]) -> list[Sample]:
        return [
            Sample(float(at), 0, {}, {"monitor-0": threads(at)}, {}, {"monitor-0": 7})
            for at in range(12)
        ]

    leaking = samples(lambda at: 1 if at == 0 else 15 + at)
    assert more_threads(leaking, 4.0) == ["the threads of monitor-0 rose from 16 to 23"]
    assert not more_threads(samples(lambda at: 15 + at % 2 * 20), 4.0)
    assert not more_threads(leaking[:8], 4.0)  # too short
