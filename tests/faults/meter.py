"""Measure the progress of a run with uncommitted records, so that a kill can hit a transaction.

In: a site. Out: the current ends of topics.
"""

import confluent_kafka as ck

from tests.faults.site import Site

_ANSWER_TIMEOUT_S = 10.0


class Meter:
    """Reads high watermarks, which advance with each batch and not only with each commit.

    Transaction markers count as records: they are a few in a thousand.
    """

    def __init__(self, site: Site) -> None:
        self._partitions = {
            topic.name: [ck.TopicPartition(topic.name, p) for p in range(topic.partitions)]
            for topic in site.topics.plan()
        }
        self._client = ck.Consumer(
            {
                "bootstrap.servers": site.settings.bootstrap_servers,
                "group.id": "faults-meter",
                "enable.auto.commit": False,
            }
        )

    def ends(self, topic: str) -> int:
        """Return the sum of the high watermarks of a topic."""
        return sum(
            int(self._client.get_watermark_offsets(partition, _ANSWER_TIMEOUT_S)[1])
            for partition in self._partitions[topic]
        )

    def close(self) -> None:
        self._client.close()
