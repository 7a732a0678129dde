"""Read outcomes and drift events: the accuracy of each model, and what has drifted.

usage: python examples/subscriber.py                         reads the newest `driftline run`
       python examples/subscriber.py STREAM_FILE HOST:PORT   reads the topics on a Kafka
"""

import sys
from collections import Counter

from driftline import Broker, Stream, drift_events, load_stream, open_run, outcomes


def report(broker: Broker | str, stream: Stream) -> None:
    """Print a line for each model, the first model first, and for each change of a drift event."""
    records: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for outcome in outcomes(broker, stream):
        records[outcome.model] += 1
        correct[outcome.model] += outcome.prediction == outcome.label
    for model, count in records.items():
        print(f"{model[:19]}  accuracy {correct[model] / count:.3f} of {count:,} records")
    for event in drift_events(broker, stream):
        print(f"{event.kind} drift {event.action}: {event.message}")


def main() -> None:
    """Read the stream that the command line names, or the newest run."""
    if len(sys.argv) > 1:
        _, file, server = sys.argv
        report(server, load_stream(file))
    else:
        stream, broker = open_run("last")
        report(broker, stream)


if __name__ == "__main__":
    main()
