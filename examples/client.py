"""Send records to a stream from an application, and their labels later.

usage: driftline topics apply --stream examples/iris.toml
       python examples/client.py [HOST:PORT]
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from driftline.config.stream import load
from producers import FeatureProducer


def main() -> None:
    """Send one flower, and what it turned out to be."""
    server = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
    stream = load(Path(__file__).with_name("iris.toml"))
    with FeatureProducer(server, stream) as producer:
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
    print(f"sent {flower} and its label")


if __name__ == "__main__":
    main()
