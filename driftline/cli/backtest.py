"""`driftline backtest`: what each policy would have done on recorded data."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from driftline.cli.options import Json, find_stream_file, stderr, stdout
from driftline.cli.run import Limit, Seed, WarmUpShare
from driftline.errors import SettingsError

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME",
        help="harm, drift, schedule, always or never; may be repeated. Default: the stream file's.",
        show_default=False,
    ),
]


def backtest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Stream file.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="CSV (also .gz), Parquet or JSON lines file, or iris, iris-drift, river:NAME.",
        ),
    ],
    policy: Policies = None,
    warmup: WarmUpShare = 0.2,
    limit: Limit = None,
    seed: Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for a report with plots.", show_default=False),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Plays at the same time; default: one a core.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """See what policies of retraining would have done on DATA, beside simple baselines.

    Plays DATA through the same services as `run`, once for each policy: what is told is what `run`
    with this policy would have done. Baselines: never retrain, retrain after each window, retrain
    periodically as many times as the policy did, predict the previous label. And on the same rows
    in random order, where nothing drifts: how often a drift event opens all the same.

    Example: driftline backtest elec2.toml elec2.csv.gz --policy harm --policy drift
    """
    # Imported here: they bring pandas and scikit-learn, which `--help` should not wait for.
    from driftline.cli.backtest_pool import cores
    from driftline.cli.backtest_result import backtest_all
    from driftline.cli.backtest_table import write_table
    from driftline.stream import Policy, load

    stream = load(find_stream_file(file))
    names = list(dict.fromkeys(policy or [stream.retrain.policy]))
    known: tuple[Policy, ...] = get_args(Policy)
    for name in names:
        if name not in known:
            raise SettingsError(
                f"--policy {name}: no such policy", hint=f"expected one of {', '.join(known)}"
            )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="driftline-backtest-") as folder,
        Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        tasks: dict[str, int] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        found = backtest_all(
            stream,
            data,
            [name for name in known if name in names],
            folder=Path(folder),
            warmup=warmup,
            limit=limit,
            seed=seed,
            processes=processes or cores(),
            tell=tell,
        )
    write_table(stderr if as_json else stdout, stream, found)
    if report is not None:
        from driftline.cli.backtest_report import write_backtest_report

        page = write_backtest_report(
            report, stream, data, found, warmup=warmup, limit=limit, seed=seed
        )
        (stderr if as_json else stdout).print(f"report: {page}", highlight=False, soft_wrap=True)
    if as_json:
        print(msgspec.json.encode(found.result).decode())
