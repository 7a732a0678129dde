"""Write docs/schemas: one JSON Schema for each topic whose values are Driftline's events.

usage: python scripts/schemas.py [--check]    --check: write nothing; exit with 1 if a file differs
"""

import json
import sys
from pathlib import Path
from types import UnionType

import msgspec

from driftline.wire.events import (
    DriftEvent,
    ModelsEvent,
    OutcomesEvent,
    PredictionsEvent,
    RetrainEvent,
)
from driftline.wire.partial_aggregates import PartsEvent
from driftline.wire.window_events import WindowsEvent

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
TOPICS: dict[str, type | UnionType] = {
    "predictions": PredictionsEvent,
    "outcomes": OutcomesEvent,
    "parts": PartsEvent,
    "windows": WindowsEvent,
    "drift": DriftEvent,
    "retrain": RetrainEvent,
    "models": ModelsEvent,
}


def schema(topic: str) -> str:
    """Return the text of a topic's schema file."""
    generated = msgspec.json.schema(TOPICS[topic])
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A value of the topic <stream>.{topic}",
    }
    return json.dumps(head | generated, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or check all files, and return the exit code."""
    check = "--check" in sys.argv[1:]
    differing = []
    for topic in TOPICS:
        path = FOLDER / f"{topic}.json"
        if path.is_file() and path.read_text(encoding="utf-8") == schema(topic):
            continue
        differing.append(path.name)
        if not check:
            path.write_text(schema(topic), encoding="utf-8")
    if differing:
        print(f"{'differs' if check else 'written'}: {', '.join(differing)}")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
