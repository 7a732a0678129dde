"""Spend a search's work budget: choose which models to train, on which rows, and which to tune.

Input: candidates, the lengths of the ranges, the budget, and a `Trainer`. Output: what the budget
left out. Work is counted in rows × fits (see `driftline.config.candidates`), never in seconds, so
the same rows always give the same models. This module performs no I/O.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

from driftline.config.candidates import MIN_FIT_ROWS
from trainer.candidates import Candidate, Parameters

# With this many rows, the metric differs between parameters by more than its noise, and tuning a
# whole grid takes only seconds.
TUNE_ROWS: Final = 10_000


class Trainer(Protocol):
    """Trains models for `spend`. A `place` is the index of a range."""

    def train(self, candidate: Candidate, place: int, parameters: Parameters) -> float | None:
        """Train a model. Return its loss on the held-out rows, or None if the training failed."""

    def tune(self, candidate: Candidate, place: int, rows: int, points: int) -> Parameters:
        """Return the best of the grid's first `points` points, tuned on the newest `rows` rows."""


class LeftOut(msgspec.Struct):
    """What the budget left out for one candidate. The lists contain indices of ranges."""

    rows: int = 0  # number of older rows of the first range
    ranges: list[int] = []  # ranges on which the candidate was not trained
    tuned_less: list[int] = []  # tuned on fewer rows, or with fewer points of the grid
    untuned: list[int] = []  # trained only with the default parameters

    def __bool__(self) -> bool:
        return bool(self.rows or self.ranges or self.tuned_less or self.untuned)


class _Pair(msgspec.Struct, frozen=True):
    """A candidate that was trained on a range with its default parameters."""

    number: int
    place: int
    loss: float


def spend(
    candidates: Sequence[Candidate],
    lengths: Sequence[int],
    work: int,
    trainer: Trainer,
    *,
    tune: bool = True,
) -> list[LeftOut]:
    """Train as many models as the budget `work` allows. Return what was left out, per candidate.

    1. Each candidate is trained with its default parameters on the first range, with at most half
       of the budget. Expensive candidates are trained on fewer rows if necessary, the newest ones.
    2. Each candidate is trained on the other ranges, the best candidate first. Each may spend half
       of the work that is left, and does so on the longest ranges that it can afford.
    3. Each candidate is tuned on its best range, the best candidate first, and then on its other
       ranges. If the work that is left is too little, it is tuned on fewer rows, and then with
       fewer points of its grid.

    `work` must be at least `least_budget`. `lengths` contains the numbers of rows of the ranges.
    The newest rows of a longer range are the rows of a shorter range.
    """
    left_out = [LeftOut() for _ in candidates]
    limited = limit_rows(candidates, lengths[0], work // 2)
    pairs, failed = [], []
    for number, candidate in enumerate(limited):
        work -= cost(candidate, lengths[0])
        used = fitted_rows(candidate, lengths[0])
        left_out[number].rows = fitted_rows(candidates[number], lengths[0]) - used
        loss = trainer.train(candidate, 0, candidate.grid[0])
        if loss is None:
            failed.append(number)
        else:
            pairs.append(_Pair(number, 0, loss))
    ranking = [pair.number for pair in sorted(pairs, key=lambda pair: pair.loss)] + failed
    for number in ranking:
        allowance = work // 2
        for place in _other_places(candidates[number], limited[number], lengths):
            price = cost(candidates[number], lengths[place])
            if price > allowance:
                left_out[number].ranges.append(place)
                continue
            allowance, work = allowance - price, work - price
            loss = trainer.train(candidates[number], place, candidates[number].grid[0])
            if loss is not None:
                pairs.append(_Pair(number, place, loss))
    if tune:
        _tune(candidates, limited, lengths, work, trainer, pairs, left_out)
    return left_out


def _other_places(candidate: Candidate, limited: Candidate, lengths: Sequence[int]) -> list[int]:
    """Return the other ranges, longest first, without those that lead to the same rows."""
    known = {fitted_rows(limited, lengths[0])}
    places = []
    for place in sorted(range(1, len(lengths)), key=lambda place: -lengths[place]):
        rows = fitted_rows(candidate, lengths[place])
        if rows not in known:
            known.add(rows)
            places.append(place)
    return places


def _tune(
    candidates: Sequence[Candidate],
    limited: Sequence[Candidate],
    lengths: Sequence[int],
    work: int,
    trainer: Trainer,
    pairs: list[_Pair],
    left_out: list[LeftOut],
) -> None:
    for pair in _best_first(pairs):
        candidate = limited[pair.number] if pair.place == 0 else candidates[pair.number]
        if len(candidate.grid) == 1:
            continue
        length = lengths[pair.place]
        # If tuning finds better parameters, the model is trained again.
        again = cost(candidate, length)
        sizes = _tuning_sizes(candidate, length)
        full = next(sizes)
        size: tuple[int, int] | None = full
        while size is not None and size[1] * cost(candidate, size[0]) + again > work:
            size = next(sizes, None)
        if size is None:
            left_out[pair.number].untuned.append(pair.place)
            continue
        if size != full:
            left_out[pair.number].tuned_less.append(pair.place)
        rows, points = size
        work -= points * cost(candidate, rows)
        parameters = trainer.tune(candidate, pair.place, rows, points)
        if parameters != candidate.grid[0]:
            work -= again
            trainer.train(candidate, pair.place, parameters)


def _best_first(pairs: list[_Pair]) -> list[_Pair]:
    """Return each candidate's best pair, by loss, then each candidate's second-best, and so on."""
    seen: dict[int, int] = {}
    ranked = []
    for pair in sorted(pairs, key=lambda pair: pair.loss):
        seen[pair.number] = seen.get(pair.number, 0) + 1
        ranked.append((seen[pair.number], pair.loss, pair))
    return [pair for *_, pair in sorted(ranked, key=lambda item: item[:2])]


def _tuning_sizes(candidate: Candidate, length: int) -> Iterator[tuple[int, int]]:
    """Yield numbers of rows and of grid points: fewer and fewer rows, for fewer and fewer points.

    On fewer rows than `MIN_FIT_ROWS`, tuning would not need less work.
    """
    most = min(fitted_rows(candidate, length), TUNE_ROWS)
    for points in range(len(candidate.grid), 1, -1):
        rows = most
        while True:
            yield rows, points
            if rows <= MIN_FIT_ROWS:
                break
            rows = max(MIN_FIT_ROWS, rows // 2)


def fitted_rows(candidate: Candidate, length: int) -> int:
    """Return the number of rows that a candidate uses of a range with `length` rows."""
    return length if candidate.max_rows is None else min(length, candidate.max_rows)


def cost(candidate: Candidate, length: int) -> int:
    """Return the work of fitting a candidate on a range with `length` rows, and scoring it."""
    return candidate.work * max(MIN_FIT_ROWS, fitted_rows(candidate, length))


def limit_rows(candidates: Sequence[Candidate], length: int, work: int) -> list[Candidate]:
    """Limit the candidates' rows so that fitting each once needs at most `work`.

    The work is shared fairly: a candidate that needs less than its share leaves the rest to the
    candidates that need more (max-min fairness). Each candidate may use `MIN_FIT_ROWS` rows.
    """
    limited = list(candidates)
    spare = work - sum(cost(candidate, 0) for candidate in candidates)
    order = sorted(range(len(candidates)), key=lambda number: cost(candidates[number], length))
    for waiting, number in zip(range(len(order), 0, -1), order, strict=True):
        candidate = candidates[number]
        more = min(cost(candidate, length) - cost(candidate, 0), max(0, spare) // waiting)
        rows = MIN_FIT_ROWS + more // candidate.work
        spare -= (rows - MIN_FIT_ROWS) * candidate.work
        if rows < fitted_rows(candidate, length):
            limited[number] = msgspec.structs.replace(candidate, max_rows=rows)
    return limited
