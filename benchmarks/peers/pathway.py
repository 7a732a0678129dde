"""Benchmark peer: a Pathway pipeline that scores records in batches and sends only predictions."""

from typing import Any

import numpy as np
import pathway as pw  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.common import MAX_BATCH, OnnxModel, arguments

# Time for which the engine collects records before it processes them. The default, 1500 ms, would
# dominate the latency.
GATHERED_MS = 20


def main() -> None:
    """Run the pipeline until killed."""
    given = arguments()
    scorer = OnnxModel(given)
    settings = {"bootstrap.servers": given.bootstrap}
    # The column is not named `id`, because `id` has a special meaning in Pathway.
    schema = pw.schema_from_types(record_id=str, **dict.fromkeys(given.features, float))
    records = pw.io.kafka.read(
        settings
        | {"group.id": given.group, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": "5"},
        given.source,
        schema=schema,
        format="json",
        json_field_paths={"record_id": "/id"},
        autocommit_duration_ms=GATHERED_MS,
    )

    @pw.udf(max_batch_size=MAX_BATCH, deterministic=True)  # type: ignore[untyped-decorator, unused-ignore]
    def prediction(*columns: list[float]) -> list[tuple[str, float]]:
        found = scorer.score(np.array(columns, dtype=np.float32).T.copy())
        return [
            (scorer.classes[place], score)
            for place, score in zip(
                found.argmax(axis=1).tolist(), found.max(axis=1).tolist(), strict=True
            )
        ]

    columns: list[Any] = [records[name] for name in given.features]
    scored = records.select(records.record_id, prediction=prediction(*columns))
    predictions = scored.select(
        scored.record_id, prediction=scored.prediction[0], score=scored.prediction[1]
    )
    pw.io.kafka.write(
        predictions, settings | {"enable.idempotence": "true"}, given.sink, format="json"
    )
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
