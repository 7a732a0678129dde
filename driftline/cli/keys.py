"""`driftline keys`: the key that signs packages, and the keys whose packages are loaded."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from driftline.cli.options import Json, stdout
from driftline.plain import json_line
from driftline.settings import load_settings

keys = typer.Typer(
    help="The key that signs model packages, and the keys whose packages may be loaded.",
    no_args_is_help=True,
)


class KeyInfo(msgspec.Struct, frozen=True):
    """One trusted key; `signs` for the one whose private half is here."""

    id: str
    signs: bool


@keys.command()
def new() -> None:
    """Make a signing key in the key folder (DRIFTLINE_HOME/keys) and trust it here.

    Hand `signing.pub` to whoever loads this trainer's models; never the private `signing.pem`.

    Example: driftline keys new
    """
    from driftline.models.keys import new_key

    settings = load_settings()
    made = new_key(settings.keys)
    path = settings.keys / "signing.pem"
    stdout.print(f"key {made}: {path}, public: signing.pub beside it", soft_wrap=True)


@keys.command()
def trust(
    file: Annotated[Path, typer.Argument(metavar="KEY", help="Ed25519 public key file (PEM).")],
) -> None:
    """Load models that are signed with this key from now on.

    Example: driftline keys trust signing.pub
    """
    from driftline.models.keys import trust as trust_key

    stdout.print(f"trusted: {trust_key(file, load_settings().keys)}")


@keys.command("list")
def list_(json: Json = False) -> None:
    """List the trusted keys; the one that signs here is marked.

    Example: driftline keys list
    """
    from driftline.models.keys import Trusted, signing_key

    folder = load_settings().keys
    own = signing_key(folder)
    found = [KeyInfo(name, name == own) for name in Trusted(folder).ids()]
    for info in found:
        if json:
            print(json_line(info))
        else:
            stdout.print(f"{info.id}{'  signs here' if info.signs else ''}")
    if not found and not json:
        stdout.print("no trusted keys; `driftline keys new` makes one")
