"""Print each model's accuracy and all drift events, from a stream's topics or a saved run.

usage: python examples/subscriber.py                         reads the newest saved run
       python examples/subscriber.py STREAM_FILE HOST:PORT   reads topics from Kafka
"""

import sys
from collections import Counter

from driftline import Broker, Stream, drift_events, load_stream, open_run, outcomes


def report(broker: Broker | str, stream: Stream) -> None:
    """Print one line per model, in serving order, and one line per drift event."""
    records: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for outcome in outcomes(broker, stream):
        records[outcome.model] += 1
        correct[outcome.model] += outcome.prediction == outcome.label
    for model, count in records.items():
        print(f"{model[:19]}  accuracy {correct[model] / count:.3f} on {count:,} records")
    for event in drift_events(broker, stream):
        print(f"{event.kind} drift {event.action}: {event.message}")


def main() -> None:
    """Report on the stream given on the command line, or on the newest saved run."""
    if len(sys.argv) > 1:
        _, file, server = sys.argv
        report(server, load_stream(file))
    else:
        stream, broker = open_run("last")
        report(broker, stream)


if __name__ == "__main__":
    main()
