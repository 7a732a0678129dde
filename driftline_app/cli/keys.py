"""`driftline keys`: create a signing key for model packages, and trust or list public keys."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from driftline.config.settings import load_settings
from driftline.safe_text import json_line
from driftline_app.cli.options import Json, stdout

keys = typer.Typer(
    help="Manage the signing key for model packages, and the trusted public keys.",
    no_args_is_help=True,
)


class KeyInfo(msgspec.Struct, frozen=True):
    """One line of `keys list --json`. `signs` is true for this machine's signing key."""

    id: str
    signs: bool


@keys.command()
def new() -> None:
    """Create a signing key in DRIFTLINE_HOME/keys, and trust it on this machine.

    Copy the public key, `signing.pub`, to every machine that loads models signed with this key, and
    trust it there with `driftline keys trust`. Never copy the private key, `signing.pem`.

    Example: driftline keys new
    """
    from driftline.models.keys import new_key

    settings = load_settings()
    made = new_key(settings.keys)
    path = settings.keys / "signing.pem"
    stdout.print(
        f"created key {made}: {path}; its public key is signing.pub, in the same folder",
        soft_wrap=True,
    )


@keys.command()
def trust(
    file: Annotated[
        Path, typer.Argument(metavar="KEY", help="PEM file with an Ed25519 public key.")
    ],
) -> None:
    """Trust a public key, so that models signed with it can be loaded on this machine.

    Example: driftline keys trust signing.pub
    """
    from driftline.models.keys import trust as trust_key

    stdout.print(f"trusted: {trust_key(file, load_settings().keys)}")


@keys.command("list")
def list_(json: Json = False) -> None:
    """List the trusted keys, and mark the key that signs models on this machine.

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
            stdout.print(f"{info.id}{'  (signing key)' if info.signs else ''}")
    if not found and not json:
        stdout.print("no trusted keys; `driftline keys new` creates one")
