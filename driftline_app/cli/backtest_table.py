"""Print the result of a backtest as a table."""

from math import floor, log10

from rich import box
from rich.console import Console
from rich.table import Table

from driftline.config.stream import Stream
from driftline.learning.metrics import higher_is_better
from driftline_app.backtest.result import Backtest
from driftline_app.cli.estimates import error_sentence
from driftline_app.replay.narrator import shown


def write_table(console: Console, stream: Stream, found: Backtest) -> None:
    """Print policies, baselines and false alarms, in 80 columns."""
    result = found.result
    better = "higher" if higher_is_better(result.metric) else "lower"
    console.print(f"{stream.name}: {result.metric}, {better} is better", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("policy", no_wrap=True)
    for name in (result.metric, "over never", "over periodic", "events", "trained", "CPU s"):
        table.add_column(name, justify="right")
    for name, policy in result.policies.items():
        table.add_row(
            f"[bold]{name}[/]",
            shown(policy.metric),
            gain(policy.gain, policy.gain_error),
            gain(policy.periodic_gain, policy.periodic_gain_error),
            str(len(policy.alerts)),
            str(len(policy.retrains)),
            f"{policy.train_seconds:.1f}",
        )
    table.add_section()
    table.add_row("never", shown(result.baselines.never), "", "", "", "0", "")
    table.add_row(
        "every window",
        shown(result.baselines.every_window),
        gain(*found.every_window.compared.gain("loop", "static")),
        "",
        "",
        str(result.every_window_retrains),
        f"{result.every_window_train_seconds:.1f}",
    )
    for policy in {len(one.periodic_retrains): one for one in result.policies.values()}.values():
        if count := len(policy.periodic_retrains):
            table.add_row(f"periodic, {count}×", shown(policy.periodic), "", "", "", str(count), "")
    table.add_row("previous label", shown(result.baselines.persistence), "", "", "", "", "")
    console.print(table)
    for name, policy in result.policies.items():
        if policy.estimates is not None:
            console.print(
                f"{name}: {error_sentence(policy.estimates)}", highlight=False, soft_wrap=True
            )
    if result.false_alarm_rate is not None:
        console.print(
            f"false alarms: {result.false_alarm_rate:.3f} drift events per window, in "
            f"{result.shuffled_windows} windows of the same rows in random order",
            highlight=False,
            soft_wrap=True,
        )


def gain(gain: float | None, error: float | None) -> str:
    """Return an improvement and its standard error as text, rounded to two digits of the error.

    >>> gain(0.10436, 0.01794), gain(22.3066, 4.2149), gain(None, None)
    ('+0.104 ± 0.018', '+22.3 ± 4.2', '–')
    """
    if gain is None or error is None:
        return "–"
    digits = max(0, 1 - floor(log10(error))) if error > 0.0 else 4
    return f"{gain:+.{digits}f} ± {error:.{digits}f}"
