"""Define the table [simulate] of a stream file, for replays of a data set."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from driftline.config.spans import Span
from driftline.config.stream_sections import AT


class LabelDelay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A random label delay: exponential with a given mean, or uniform between two bounds."""

    distribution: Annotated[
        Literal["exponential", "uniform"], Meta(description="family of the distribution")
    ]
    mean: Annotated[Span | None, Meta(description="exponential: the mean delay")] = None
    low: Annotated[Span | None, Meta(description="uniform: the smallest delay")] = None
    high: Annotated[Span | None, Meta(description="uniform: the largest delay")] = None


class Simulate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for replaying a data set as a stream. Only `run` and `produce` use this table."""

    label_delay: Annotated[
        str | int | LabelDelay,
        Meta(
            description='label delay: a span, a distribution, "data" (a later row with the '
            'same id contains the label) or "@at" (the column `@at` contains the position at which '
            "the label became known)"
        ),
    ] = 0
    label_missing: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Meta(description="fraction of labels that never arrive")
    ] = 0.0

    @property
    def delay(self) -> Span | LabelDelay | None:
        """Return the label delay.

        The delay is None if later rows contain the labels, and zero if the column `@at` contains
        the positions at which labels became known. Raises ValueError if `label_delay` is not valid.
        """
        if isinstance(self.label_delay, LabelDelay):
            return self.label_delay
        if self.label_delay == AT:
            return Span(records=0)
        return None if self.label_delay == "data" else Span.parse(self.label_delay)
