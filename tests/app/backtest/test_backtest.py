"""`driftline backtest` compares policies and baselines, as JSON, as a table and as a page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driftline.config.measure import Measure
from driftline.config.stream import Stream, loads
from driftline_app.backtest.policy_runs import Played, Shuffled, every_window, periodic
from driftline_app.backtest.result import persistence
from driftline_app.replay.compared_metrics import Answer, ComparedPredictors
from driftline_app.replay.simulation import RunResult
from producers.rows import Row
from tests.app.cli.invoke import Invoked, invoke

IRIS = (Path(__file__).parents[3] / "examples" / "iris.toml").read_text(encoding="utf-8")
DATA = ("iris-drift", "--limit", "3800")  # the sensor turns bad at row 3,000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stream file in which only the policy `drift` requests retraining."""
    made = tmp_path_factory.mktemp("backtest")
    text = IRIS.replace("[retrain]\n", '[retrain]\npolicy = "drift"\nrenew = 0\n')
    (made / "stream.toml").write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def backtest(folder: Path) -> Invoked:
    arguments = ("--policy", "harm", "--policy", "drift", "--json", "--report", "page")
    return invoke(folder / "home", "backtest", *DATA, *arguments)


@pytest.fixture(scope="module")
def result(backtest: Invoked) -> dict[str, Any]:
    assert backtest.exit_code == 0, backtest.stderr
    (line,) = backtest.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_json_output_has_the_documented_fields(result: dict[str, Any]) -> None:
    assert result["metric"] == "accuracy"
    assert set(result["policies"]) == {"harm", "drift"}
    for policy in result["policies"].values():
        assert isinstance(policy["metric"], float)
        assert isinstance(policy["train_seconds"], float)
        assert policy["retrains"]
        for alert in policy["alerts"]:
            assert {"kind", "row", "columns"} <= set(alert)
    assert {"never", "every-window", "periodic", "persistence"} == set(result["baselines"])
    assert 0 <= result["false_alarm_rate"] <= 1


def test_retraining_beats_never_retraining_on_a_faulty_sensor(result: dict[str, Any]) -> None:
    harm = result["policies"]["harm"]
    assert harm["metric"] > result["baselines"]["never"]
    assert harm["gain"] > 2 * harm["gain_error"]
    assert result["baselines"]["persistence"] < 0.5, "three species in random order"


def test_the_periodic_baseline_has_as_many_trainings(result: dict[str, Any]) -> None:
    for policy in result["policies"].values():
        assert len(policy["periodic_retrains"]) == len(policy["retrains"])
    assert result["baselines"]["periodic"] == result["policies"]["harm"]["periodic"]


@pytest.fixture(scope="module")
def ran(folder: Path) -> Invoked:
    """A run of the same data, whose topics are saved in the home `other`."""
    return invoke(folder / "other", "run", *DATA, "--json")


def test_the_result_is_that_of_a_run_with_the_policy(result: dict[str, Any], ran: Invoked) -> None:
    assert ran.exit_code == 0, ran.stderr
    run = msgspec.json.decode(ran.stdout.splitlines()[-1], type=RunResult)
    told = result["policies"]["drift"]
    assert told["metric"] == run.metric.loop
    assert told["alerts"] == json.loads(msgspec.json.encode(run.alerts))
    assert tuple(told["retrains"]) == run.retrains
    assert result["baselines"]["never"] == run.metric.static
    assert (told["gain"], told["gain_error"]) == (run.metric.gain, run.metric.gain_error)


def test_a_table_and_a_page_are_written(folder: Path, backtest: Invoked) -> None:
    for words in ("harm", "never", "previous", "false alarms", "report: page/report.html"):
        assert words in backtest.stderr
    page = (folder / "page" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for heading in ("Accuracy over time: harm", "Accuracy over time: drift", "Column drift"):
        assert heading in page
    assert "petal_length, window up to row" in page, "the heat map"
    assert "performance drift opened" in page
    assert page.count('class="bar window"') > 20, "the distributions"
    assert 'class="cell drifted"' in page, "the window of the data event, though the model changed"
    opened, asked = page.index('id="drift-drift-'), page.index('id="drift-retrain-')
    assert opened < asked, "causes come first"


def test_the_plots_of_the_page_are_written_as_pictures(folder: Path, backtest: Invoked) -> None:
    if "no pictures: pictures would have no text" in backtest.stderr:
        pytest.skip("no font is installed here")
    names = {path.name for path in (folder / "page").glob("*.png")}
    assert f"pictures: {len(names)} PNG files in the same folder" in backtest.stderr
    assert len(names) == (folder / "page" / "report.html").read_text("utf-8").count("<svg")
    assert {
        "iris-accuracy-with-policy-harm.png",
        "iris-accuracy-with-policy-drift.png",
        "column-shift-by-window.png",
        "petal_length-reference-and-window.png",
    } <= names


def test_nothing_is_left_in_the_home_folder(folder: Path, backtest: Invoked) -> None:
    assert backtest.exit_code == 0
    assert not (folder / "home").exists()


def test_topics_give_the_result_of_the_data_that_filled_them(folder: Path, ran: Invoked) -> None:
    assert ran.exit_code == 0, ran.stderr
    arguments = ("--run", "last", "--policy", "never", "--json", "--report", "page-of-topics")
    played = invoke(folder / "other", "backtest", *arguments)
    assert played.exit_code == 0, played.stderr
    assert "3,040 records of iris, 3,040 with a label" in played.stderr
    result = json.loads(played.stdout)
    # The first model learns from a fifth of what the run streamed, and sees the sensor turn bad.
    assert result["baselines"]["every-window"] > result["policies"]["never"]["metric"] + 0.02
    page = (folder / "page-of-topics" / "report.html").read_text(encoding="utf-8")
    assert "iris.features" in page


def test_data_and_topics_together_are_an_error(folder: Path, ran: Invoked) -> None:
    assert ran.exit_code == 0
    failed = invoke(folder / "other", "backtest", "iris-drift", "--run", "last")
    assert failed.exit_code == 2
    assert "--run reads topics" in failed.stderr


def test_an_unknown_policy_is_an_error_that_lists_the_policies(folder: Path) -> None:
    failed = invoke(folder / "home", "backtest", "iris-drift", "-p", "sometimes")
    assert failed.exit_code == 2
    assert "sometimes" in failed.stderr
    assert "harm, drift, schedule, always, never" in failed.stderr


def test_missing_data_is_an_error_that_names_it(folder: Path) -> None:
    failed = invoke(folder / "home", "backtest", "nowhere.csv")
    assert failed.exit_code == 2
    assert "nowhere.csv" in failed.stderr


def test_help_names_the_baselines(folder: Path) -> None:
    shown = invoke(folder / "home", "backtest", "--help")
    assert shown.exit_code == 0
    assert "previous label" in " ".join(shown.stdout.split())


# ---- baselines ----------------------------------------------------------------------------------


def small(more: str = "") -> Stream:
    return loads(
        'version = 1\nname = "small"\ntask = "classification"\ntarget = "y"\n'
        'features = { x = "number" }\nrecord = { id = "id" }\n' + more
    )


def test_the_previous_label_is_no_baseline_if_the_order_means_nothing() -> None:
    compared = ComparedPredictors(Measure("accuracy"), ("loop", "persistence"))
    compared.add(0, "a", {"loop": Answer("a"), "persistence": Answer("b")})
    play = Played("always", 1, compared, (), (), (), (), 0.0, None)
    assert persistence(small(), play) == 0.0
    assert persistence(small('models = { split = "stratified" }'), play) is None


def test_periodic_retraining_is_spread_evenly_regardless_of_the_limits_in_the_file() -> None:
    stream = small("retrain = { cooldown = 500, budget = { requests = 1, per = 9000 } }")
    retrain = periodic(stream, records=1000, trainings=4).retrain
    assert retrain.every is not None
    assert (retrain.policy, retrain.every.records) == ("schedule", 200)
    assert retrain.budget is not None
    assert retrain.budget.requests == 4, "the fifth would be at the end"
    assert retrain.cooldown is not None
    assert retrain.cooldown.records == 0
    assert every_window(stream).retrain.budget is None


def test_two_predictors_are_compared_on_the_rows_that_both_have() -> None:
    one = ComparedPredictors(Measure("accuracy"), ("loop",))
    other = ComparedPredictors(Measure("accuracy"), ("loop",))
    for row in range(100):
        one.add(row, "a", {"loop": Answer("a")})
    for row in reversed(range(10, 100)):  # another order, and ten rows that have no outcome
        other.add(row, "a", {"loop": Answer("a" if row % 2 else "b")})
    both = one.beside("loop", other, "loop", as_name="other")
    assert len(both.rows) == 90
    gain, error = both.gain("loop", "other")
    assert gain == pytest.approx(0.5, abs=0.2)
    assert error is not None
    assert error < 0.1


# ---- shuffled data ------------------------------------------------------------------------------


class Rows:
    """A source of the given rows."""

    name = "rows"
    textual = False

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def count(self) -> int:
        return len(self._rows)

    def rows(self) -> Iterator[Row]:
        yield from self._rows


def shuffled(stream: Stream, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    source = Shuffled(Rows(rows), stream, limit=None)
    found = list(source.rows())
    assert found == list(source.rows()), "the same each time"
    return [dict(row) for row in found if not isinstance(row, bytes)]


def test_shuffling_moves_features_and_targets_but_not_ids_and_times() -> None:
    stream = small('time = { column = "at" }\n')
    rows = [{"id": str(i), "at": f"2024-01-01T00:00:{i:02}Z", "x": i, "y": i} for i in range(50)]
    mixed = shuffled(stream, rows)
    assert [(row["id"], row["at"]) for row in mixed] == [(row["id"], row["at"]) for row in rows]
    assert [row["x"] for row in mixed] != list(range(50))
    assert sorted(row["x"] for row in mixed) == list(range(50))
    assert all(row["x"] == row["y"] for row in mixed)


def test_labels_in_separate_rows_move_with_their_records() -> None:
    stream = small('simulate = { label_delay = "data" }\n')
    records: list[dict[str, Any]] = [{"id": str(i), "x": i, "y": None} for i in range(40)]
    labels: list[dict[str, Any]] = [
        {"id": str(i), "x": i, "y": i} for i in range(30)
    ]  # ten never come
    mixed = shuffled(stream, [*records, *labels])
    said = {row["id"]: row["x"] for row in mixed[:40]}
    assert [row["id"] for row in mixed] == [row["id"] for row in [*records, *labels]]
    assert all(said[row["id"]] == row["y"] for row in mixed[40:])
    assert list(said.values()) != list(range(40))
