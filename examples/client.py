"""Send feature records and their labels from an application to a stream's Kafka topics.

usage: driftline topics apply --stream examples/iris.toml
       python examples/client.py [HOST:PORT]
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from driftline import FeatureProducer

STREAM = Path(__file__).with_name("iris.toml")


def send(producer: FeatureProducer) -> str:
    """Send one flower and its species. Return the record's id."""
    flower = producer.send(
        {
            "flower_id": "rose-1",
            "measured_at": datetime.now(UTC),
            "sepal_length": 5.1,
            "sepal_width": 3.5,
            "petal_length": 1.4,
            "petal_width": 0.2,
        }
    )
    producer.label(flower, "setosa")
    return flower


def main() -> None:
    """Connect, send, and wait until the broker has confirmed both messages."""
    server = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
    with FeatureProducer(server, STREAM) as producer:
        flower = send(producer)
    print(f"sent {flower} and its label")


if __name__ == "__main__":
    main()
