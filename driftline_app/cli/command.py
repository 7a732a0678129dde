"""Define the base class of all `driftline` commands, which parses their arguments.

Input: the words after a command's name. Output: the same words, except that a stream file given as
an argument, which is deprecated, becomes the value of `--stream`.
"""

import sys
from typing import Any, Final

from typer.core import TyperCommand

from driftline.safe_text import visible

_STREAM_OPTION: Final = "--stream"


class Command(TyperCommand):
    """A command that treats an extra argument ending in ".toml" as its stream file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command's name. Called by Typer."""
        if (file := self._stream_argument(ctx, args)) is not None:
            rest = list(args)
            rest.remove(file)
            args = [_STREAM_OPTION, file, *rest]
            if "--json" not in args:
                shown = visible(file)
                print(
                    f"note: passing {shown} as an argument is deprecated; "
                    f"use {_STREAM_OPTION} {shown}",
                    file=sys.stderr,
                )
        return super().parse_args(ctx, args)

    def _stream_argument(self, ctx: Any, args: list[str]) -> str | None:
        """Return the stream file if it was given as an extra argument, otherwise None."""
        options = {option for parameter in self.params for option in parameter.opts}
        if _STREAM_OPTION not in options or ctx.resilient_parsing:
            return None
        values, extra, _ = self.make_parser(ctx).parse_args(args=list(args))
        if values.get("file") is not None:
            return None
        own = [parameter for parameter in self.params if parameter.param_type_name == "argument"]
        given = [values.get(str(parameter.name)) for parameter in own]
        words = [word for word in (*given, *extra) if isinstance(word, str)]
        if len(words) <= sum(parameter.required for parameter in own):
            return None
        return next((word for word in words if word.endswith(".toml")), None)
