"""Generate the seeded streams of `benchmarks.evidence.observations`, as CSV and stream files.

Input: a seed. Output: for each observation, one or several streams, each with its warm-up rows.
Nothing here imports Driftline, so that the files are the same for every checkout.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.drifting import Floats, Rng
from benchmarks.evidence.series import in_runs, levels, runs, season, stations

WARM_UP: Final = 12_000  # rows of the reference, unless an observation states otherwise
NUMBERS: Final = 16
CATEGORIES: Final = 4
Columns = dict[str, NDArray[Any]]


class ObservedStream(msgspec.Struct, frozen=True):
    """A generated stream: its columns, each (n,), and its stream file without `[features]`.

    `warm_up` is the number of rows on which the first model is trained. Columns in `unwatched` are
    not tested for drift.
    """

    name: str
    columns: Columns
    task: str
    sections: str
    warm_up: int
    unwatched: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of rows, including the warm-up rows."""
        return len(self.columns["y"])

    @property
    def warm_up_share(self) -> float:
        """Return the value of `--warmup`."""
        return self.warm_up / self.rows

    def stream_file(self) -> str:
        """Return the text of the stream file."""
        kinds = {
            name: "number" if values.dtype.kind == "f" else "category"
            for name, values in self.columns.items()
            if name != "y"
        }
        features = "\n".join(
            f'{name} = {{ kind = "{kind}", watch = false }}'
            if name in self.unwatched
            else f'{name} = "{kind}"'
            for name, kind in kinds.items()
        )
        return (
            f'version = 1\nname = "{self.name}"\ntask = "{self.task}"\ntarget = "y"\n'
            f'[record]\nmissing = "impute"\n[features]\n{features}\n{self.sections}\n'
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the data file and the stream file to a folder, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        data, stream_file = folder / f"{self.name}.csv", folder / f"{self.name}.toml"
        texts = [list(map(_text, values.tolist())) for values in self.columns.values()]
        lines = [",".join(self.columns), *map(",".join, zip(*texts, strict=True))]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        stream_file.write_text(self.stream_file(), encoding="utf-8")
        return data, stream_file


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if value != value else f"{value:.5g}"


# ---- parts of streams ---------------------------------------------------------------------------

# The model is irrelevant for most observations: it is small, and never replaced.
_FIXED_MODEL: Final = (
    '[retrain]\npolicy = "never"\n[models]\ncandidates = ["{candidate}"]\ntune = false'
)


def sections(window: int, *, drift: str = "", candidate: str = "logistic_regression") -> str:
    """Return a stream file's sections for windows of `window` records and a fixed model."""
    own = f"[drift]\n{drift}\n" if drift else ""
    return f"[windows]\nrecords = {window}\n{own}{_FIXED_MODEL.format(candidate=candidate)}"


def noisy_class(rng: Rng, signal: Floats, noise: float | Floats) -> NDArray[Any]:
    """Return "yes" where the signal is positive, with the share `noise` of labels swapped."""
    positive = (signal > 0) ^ (rng.random(len(signal)) < noise)
    found: NDArray[Any] = np.where(positive, "yes", "no")
    return found


def ordinary(rng: Rng, rows: int, *, noise: float = 0.2) -> Columns:
    """Draw 16 independent normal columns, 4 independent categories, and a class with noise."""
    numbers = {f"n{place}": rng.normal(size=rows) for place in range(NUMBERS)}
    categories = {
        f"c{place}": levels(rng, rows, (0.4, 0.25, 0.15, 0.1, 0.1)) for place in range(CATEGORIES)
    }
    return {**numbers, **categories, "y": noisy_class(rng, numbers["n0"] + numbers["n1"], noise)}


# ---- the observations ---------------------------------------------------------------------------


SEASONAL_SHIFT: Final = 10_000  # observation 1: row at which x0 shifts


def seasonal_column(rng: Rng) -> list[ObservedStream]:
    """Observation 1: one of six columns has a season of 24 rows; x0 shifts at row 10,000."""
    rows = 16_000
    columns: Columns = {f"x{place}": rng.normal(size=rows) for place in range(5)}
    columns["load_kw"] = 0.5 * season(rows, 24) + rng.normal(size=rows)
    columns["y"] = noisy_class(rng, columns["x4"], 0.1)
    columns["x0"][SEASONAL_SHIFT:] += 1.5
    plain = ObservedStream("seasonal", columns, "classification", sections(1000), 8_000)
    replace = msgspec.structs.replace
    return [
        plain,
        replace(plain, name="seasonal-block", sections=sections(1000, drift="block = 24")),
        replace(plain, name="seasonal-unwatched", unwatched=("load_kw",)),
    ]


def missing_in_runs(rng: Rng) -> list[ObservedStream]:
    """Observation 3: in four columns, a tenth of the values is missing, in runs of 10–200 rows."""
    rows = WARM_UP + 60 * 250
    columns = ordinary(rng, rows)
    for place in range(4, 8):
        columns[f"n{place}"][in_runs(rng, rows, 0.1, 10, 200)] = np.nan
    return [ObservedStream("missing", columns, "classification", sections(250), WARM_UP)]


def sticky_categories(rng: Rng) -> list[ObservedStream]:
    """Observation 4: rows come in blocks of 20 to 200 rows from one of 12 stations."""
    rows = WARM_UP + 60 * 250
    columns = ordinary(rng, rows)
    block = runs(rng, rows, 20, 200)
    columns["c0"] = stations(rng.integers(0, 12, block[-1] + 1)[block])
    return [ObservedStream("stations", columns, "classification", sections(250), WARM_UP)]


def rare_errors(rng: Rng) -> list[ObservedStream]:
    """Observation 5: 2% of the labels are wrong, independently of each other."""
    found = []
    for warm_up in (5_000, 12_000, 50_000):
        rows = warm_up + 1_000
        x = rng.normal(size=(2, rows))
        # Few rows lie near the border, so that nearly all errors are swapped labels.
        x[0] += np.sign(x[0]) * 2.0
        columns: Columns = {"x0": x[0], "x1": x[1], "y": noisy_class(rng, x[0], 0.02)}
        name = f"errors-{warm_up}"
        found.append(ObservedStream(name, columns, "classification", sections(500), warm_up))
    return found


def small_shifts(rng: Rng) -> list[ObservedStream]:
    """Observation 6: one mean shifts by 0.2 sd; or the share of one level rises from 5% to 10%."""
    quiet, rows = 2_000, WARM_UP + 2_000 + 30 * 500
    shifted = ordinary(rng, rows)
    shifted["n5"][WARM_UP + quiet :] += 0.2
    share = ordinary(rng, rows)
    share["c1"] = np.concatenate(
        [
            levels(rng, WARM_UP + quiet, (0.6, 0.35, 0.05)),
            levels(rng, rows - WARM_UP - quiet, (0.568, 0.332, 0.1)),
        ]
    )
    return [
        ObservedStream("small-mean", shifted, "classification", sections(500), WARM_UP),
        ObservedStream("small-share", share, "classification", sections(500), WARM_UP),
    ]


# Observation 7: the shift lasts `SHIFTED` of every `CYCLE` windows, so that it resolves in between.
SHIFTED: Final = 2
CYCLE: Final = 8
CYCLES: Final = 25
ONSET_WINDOW: Final = 100


def repeated_shifts(rng: Rng) -> list[ObservedStream]:
    """Observation 7: one column shifts by 1.5 sd for 2 of every 8 windows, then returns."""
    rows = WARM_UP + CYCLES * CYCLE * ONSET_WINDOW
    columns = ordinary(rng, rows)
    window = (np.arange(rows) - WARM_UP) // ONSET_WINDOW
    columns["n3"][(window >= 0) & (window % CYCLE >= CYCLE - SHIFTED)] += 1.5
    return [ObservedStream("onsets", columns, "classification", sections(ONSET_WINDOW), WARM_UP)]


def mostly_zero_errors(rng: Rng) -> list[ObservedStream]:
    """Observation 8: an amount is one of three fees, except in spells of 5–40 rows.

    Spells cover 4% of the rows, and a column announces them. A tree therefore predicts all other
    rows exactly, apart from rounding errors.
    """
    rows = WARM_UP + 160 * 125
    spell = in_runs(rng, rows, 0.04, 5, 40)
    columns: Columns = {f"n{place}": rng.normal(size=rows) for place in range(NUMBERS)}
    columns["signal"] = np.where(spell, 0.9, 0.3) + 0.05 * rng.normal(size=rows)
    columns["c0"] = levels(rng, rows, (0.5, 0.3, 0.2))
    fees = np.select([columns["c0"] == "l0", columns["c0"] == "l1"], [4.9, 9.9], 19.9)
    columns["y"] = np.where(spell, rng.lognormal(1.0, 1.0, rows), fees)
    tree = sections(125, candidate="decision_tree")
    return [ObservedStream("amounts", columns, "regression", tree, WARM_UP)]


def unrepairable_noise(rng: Rng) -> list[ObservedStream]:
    """Observation 10: at row 8,000, the share of swapped labels rises from 10% to 25%.

    No training can undo this. Policy and candidates are the defaults.
    """
    warm_up, rows = 6_000, 18_000
    x = rng.normal(size=(6, rows))
    noise = np.where(np.arange(rows) < 8_000, 0.1, 0.25)
    columns: Columns = {f"x{place}": values for place, values in enumerate(x)}
    columns["y"] = noisy_class(rng, x[0] + x[1], noise)
    own = "[windows]\nrecords = 500"
    return [ObservedStream("renewals", columns, "classification", own, warm_up)]


BROKEN: Final = 5_000  # observation 11: rows from the start of the stream to the fault


def broken_sensor(rng: Rng) -> list[ObservedStream]:
    """Observation 11: a temperature changes from °C to °F; or it is frozen at one value."""
    rows = WARM_UP + BROKEN + 5_000
    columns = ordinary(rng, rows)
    temperature = 15.0 + 5.0 * rng.normal(size=rows)
    columns["n0"] = temperature
    signal = (temperature - 15.0) / 5.0 + 0.2 * columns["n1"] + 0.1 * columns["n2"]
    columns["y"] = noisy_class(rng, signal, 0.2)
    found = []
    for name, change in (("unit", lambda t: t * 1.8 + 32.0), ("frozen", _frozen)):
        own = {column: values.copy() for column, values in columns.items()}
        own["n0"][WARM_UP + BROKEN :] = change(own["n0"][WARM_UP + BROKEN :])
        found.append(ObservedStream(name, own, "classification", sections(1000), WARM_UP))
    return found


def _frozen(values: Floats) -> Floats:
    return np.full_like(values, values[0])


NEW_FROM: Final = 5_000  # observation 12: streamed rows before the first new station


def new_stations(rng: Rng) -> list[ObservedStream]:
    """Observation 12: from row 17,000 on, 6% of the rows come from five new stations."""
    rows = WARM_UP + 20_000
    columns = ordinary(rng, rows)
    station = rng.integers(0, 20, rows)
    is_new = (np.arange(rows) >= WARM_UP + NEW_FROM) & (rng.random(rows) < 0.06)
    station[is_new] = 20 + rng.integers(0, 5, int(is_new.sum()))
    columns["c0"] = stations(station)
    return [ObservedStream("new-stations", columns, "classification", sections(1000), WARM_UP)]


Generator = Callable[[Rng], list[ObservedStream]]
GENERATORS: Final[Mapping[int, Generator]] = {
    1: seasonal_column,
    3: missing_in_runs,
    4: sticky_categories,
    5: rare_errors,
    6: small_shifts,
    7: repeated_shifts,
    8: mostly_zero_errors,
    10: unrepairable_noise,
    11: broken_sensor,
    12: new_stations,
}


def streams_of(number: int, seed: int) -> list[ObservedStream]:
    """Return an observation's streams. The same seed always gives the same streams."""
    return GENERATORS[number](np.random.default_rng([seed, number]))
