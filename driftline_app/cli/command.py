"""The class of all commands. It also accepts the stream file as an argument (deprecated).

In: the words after a command's name. Out: the same words, with the stream file after `--stream`.
"""

import sys
from typing import Any, Final

from typer.core import TyperCommand

from driftline.safe_text import visible

_STREAM_OPTION: Final = "--stream"


class Command(TyperCommand):
    """A command. An extra argument that ends in ".toml" is taken as its stream file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command's name. Typer calls this."""
        if (file := self._stream_argument(ctx, args)) is not None:
            rest = list(args)
            rest.remove(file)
            args = [_STREAM_OPTION, file, *rest]
            if "--json" not in args:
                shown = visible(file)
                print(
                    f"note: {shown} as an argument is deprecated; use {_STREAM_OPTION} {shown}",
                    file=sys.stderr,
                )
        return super().parse_args(ctx, args)

    def _stream_argument(self, ctx: Any, args: list[str]) -> str | None:
        """Return the stream file if it is an argument, and the command has one too many."""
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
