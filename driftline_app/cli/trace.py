"""`driftline trace`: print the causes and effects of one event as a tree."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.tree import Tree

from driftline.audit.lineage import Node
from driftline.safe_text import json_line
from driftline_app.cli.options import BootstrapServers, Json, Run, StreamFile, stderr, stdout
from driftline_app.context import open_context

BECAUSE = "because of"
LED_TO = "led to"


def trace(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of a drift event, window, retrain request, decision or record, or the first "
            "digits of a model's digest.",
        ),
    ],
    file: StreamFile = None,
    bootstrap_server: BootstrapServers = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Print the causes and effects of an event as a tree.

    For example, the causes of a prediction are its model, the decision to promote that model, the
    retrain request, the drift event and the windows with drift. For a record's id, the tree shows
    the record's predictions, outcomes, labels or dead letter. Exits with code 1 if the id is not
    found.

    Example: driftline trace drift-52cf42d9f7f3 --run last
    """
    from driftline.audit.trace import trace as follow

    context = open_context(file, bootstrap_server, run)
    nodes = follow(context.broker, context.stream, id)
    if json:
        for node in nodes:
            print(json_line(node))
    else:
        for node in nodes:
            stdout.print(_tree(node))
    if not nodes:
        if not json:
            stderr.print(
                f"id {id!r} was not found in the topics of {context.stream.name}", markup=False
            )
        raise typer.Exit(1)


def _tree(node: Node) -> Tree:
    tree = Tree(_label(node))
    _grow(tree, node, "")
    return tree


def _grow(tree: Tree, node: Node, direction: str) -> None:
    """Add a node's causes and effects to the tree.

    Insert a heading wherever the tree switches between causes and effects.
    """
    for words, others in ((BECAUSE, node.causes), (LED_TO, node.effects)):
        if not others:
            continue
        branch = tree if words == direction else tree.add(f"[dim]{words}[/]")
        for other in others:
            _grow(branch.add(_label(other)), other, words)


def _label(node: Node) -> str:
    return f"[bold]{node.kind}[/] [cyan]{escape(node.id)}[/]  {escape(node.text)}"
