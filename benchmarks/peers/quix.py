"""Benchmark peer: a Quix Streams program that scores one record at a time.

It sends only predictions.
"""

from typing import Any

from quixstreams import Application  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.common import OnnxModel, arguments


def main() -> None:
    """Run the application until killed."""
    given = arguments()
    scorer = OnnxModel(given)

    def score(record: dict[str, Any]) -> dict[str, Any]:
        ((label, scores),) = scorer.classify([record])
        return {"id": record["id"], "prediction": label, "score": max(scores)}

    application = Application(
        broker_address=given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        loglevel="WARNING",
    )
    source = application.topic(given.source, value_deserializer="json")
    sink = application.topic(given.sink, value_serializer="json")
    application.dataframe(source).apply(score).to_topic(sink)
    application.run()


if __name__ == "__main__":
    main()
