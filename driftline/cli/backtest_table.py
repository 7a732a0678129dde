"""The result of a backtest as a table for people."""

from rich.console import Console
from rich.table import Table

from driftline.cli.backtest_result import Backtest
from driftline.cli.narrator import shown
from driftline.evaluation import higher_is_better
from driftline.stream import Stream


def write_table(console: Console, stream: Stream, found: Backtest) -> None:
    """Print policies, then baselines, then false alarms."""
    result = found.result
    better = "higher" if higher_is_better(result.metric) else "lower"
    table = Table(title=f"{stream.name}: {result.metric}, {better} is better", title_justify="left")
    for name in ("policy", result.metric, "gain on never", "gain on periodic"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for name in ("drift events", "trainings", "seconds of training"):
        table.add_column(name, justify="right")
    for name, policy in result.policies.items():
        table.add_row(
            f"[bold]{name}[/]",
            shown(policy.metric),
            _gain(policy.gain, policy.gain_error),
            _gain(policy.periodic_gain, policy.periodic_gain_error),
            str(len(policy.alerts)),
            str(len(policy.retrains)),
            f"{policy.train_seconds:.1f}",
        )
    table.add_section()
    gain = found.every_window.compared.gain("loop", "static")
    table.add_row("never", shown(result.baselines.never), "", "", "", "0", "")
    table.add_row(
        "every window",
        shown(result.baselines.every_window),
        _gain(*gain),
        "",
        "",
        str(result.every_window_retrains),
        f"{result.every_window_train_seconds:.1f}",
    )
    for name, policy in result.policies.items():
        count = str(len(policy.periodic_retrains))
        table.add_row(f"periodic, as {name}", shown(policy.periodic), "", "", "", count, "")
    table.add_row("previous label", shown(result.baselines.persistence), "", "", "", "", "")
    console.print(table)
    if result.false_alarm_rate is not None:
        console.print(
            f"false alarms: {result.false_alarm_rate:.3f} drift events a window, over "
            f"{result.shuffled_windows} windows of the same rows in random order",
            highlight=False,
        )


def _gain(gain: float | None, error: float | None) -> str:
    return "–" if gain is None or error is None else f"{gain:+.4f} ± {error:.4f}"
