"""Compute the minimal Kafka ACLs of services, producers, consumers and operator commands.

Input: the topic plan, which lists each topic's writers and readers. Output: `Acl`s by role, and
`kafka-acls.sh` commands that grant them. This module never connects to a broker.
"""

import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final, Literal

import msgspec

from driftline.config.stream import Stream
from driftline.wire.topics import OPERATOR, SERVICES, Topics

Resource = Literal["topic", "group", "transactional-id"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal["Read", "Write", "Describe", "DescribeConfigs", "Create"]

# In Kafka, Read and Write imply Describe. Writers use DescribeConfigs to look up a topic's maximum
# record size.
_READ: Final[tuple[Operation, ...]] = ("Read", "DescribeConfigs")
_WRITE: Final[tuple[Operation, ...]] = ("Write", "DescribeConfigs")


class Acl(msgspec.Struct, frozen=True):
    """The operations that a principal may perform on a topic, group or transactional id."""

    role: str  # a service, or another role that writes or reads topics
    principal: str
    resource: Resource
    name: str
    pattern: Pattern
    operations: tuple[Operation, ...]


def acls(stream: Stream, principals: Mapping[str, str] | None = None) -> tuple[Acl, ...]:
    """Return the ACLs of all roles, ordered by role.

    `principals` maps roles to principals. A role's default principal is `User:ROLE`.
    """
    topics = Topics(stream)
    named = principals or {}
    return tuple(
        Acl(role, named.get(role, f"User:{role}"), resource, name, pattern, operations)
        for role in roles(topics)
        for resource, name, pattern, operations in _rights(role, stream, topics)
    )


def roles(topics: Topics) -> tuple[str, ...]:
    """Return all roles: the services, then the topic plan's other writers and readers."""
    others = dict.fromkeys(
        role for topic in topics.plan() for role in (*topic.writers, *topic.readers)
    )
    return (*SERVICES, *(role for role in others if role not in SERVICES))


def commands(rights: tuple[Acl, ...], servers: str) -> Iterator[str]:
    """Yield `kafka-acls.sh` commands that grant the rights.

    Each command grants a role the same operations on one or more resources of the same type. A
    comment line precedes each role's commands.
    """
    for role, of_role in groupby(rights, key=lambda acl: acl.role):
        yield f"# {role}"
        for (resource, pattern, operations), same in groupby(
            of_role, key=lambda acl: (acl.resource, acl.pattern, acl.operations)
        ):
            found = list(same)
            words = ["kafka-acls.sh", "--bootstrap-server", servers]
            words += ["--command-config", "admin.properties", "--add"]
            words += ["--allow-principal", found[0].principal]
            for operation in operations:
                words += ["--operation", operation]
            if pattern == "prefixed":
                words += ["--resource-pattern-type", "prefixed"]
            for acl in found:
                words += [f"--{resource}", acl.name]
            yield shlex.join(words)


_Right = tuple[Resource, str, Pattern, tuple[Operation, ...]]


def _rights(role: str, stream: Stream, topics: Topics) -> Iterator[_Right]:
    if role == OPERATOR:
        yield from _operator(topics)
        return
    plan = topics.plan()
    for wanted in (_READ, _WRITE, (*_READ, "Write")):
        for topic in plan:
            reads, writes = role in topic.readers, role in topic.writers
            operations = (*_READ, "Write") if reads and writes else _READ if reads else _WRITE
            if (reads or writes) and operations == wanted:
                yield "topic", topic.name, "literal", operations
    if any(role in topic.readers for topic in plan) and role != "producers":
        # Use a prefix: librdkafka needs a group id even to read broadcast topics, and looks up that
        # group's coordinator. The id starts with the name of the role's own group.
        yield "group", topics.group(role), "prefixed", ("Read",)
    exactly_once = role != "inference" or stream.kafka.inference_delivery == "exactly_once"
    if role in SERVICES and exactly_once:
        yield "transactional-id", f"{topics.group(role)}-", "prefixed", ("Write",)


def _operator(topics: Topics) -> Iterator[_Right]:
    """Yield an operator's rights: read all topics and group offsets, create topics, and write to
    the topics whose writers include operators."""
    plan = topics.plan()
    for writes in (False, True):
        for topic in plan:
            if (OPERATOR in topic.writers) == writes:
                write: tuple[Operation, ...] = ("Write",) if writes else ()
                yield "topic", topic.name, "literal", (*_READ, "Create", *write)
    for service in SERVICES:
        yield "group", topics.group(service), "literal", ("Describe",)
