"""How far a run has come, uncommitted records included: when to kill in the middle of one.

In: a site. Out: the ends of topics, as they are now.
"""

import confluent_kafka as ck

from tests.faults.site import Site

_ANSWER_TIMEOUT_S = 10.0


class Meter:
    """Looks at the high watermarks, which move with each batch, not with each commit.

    A transaction's marker counts as a record: a few in a thousand.
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
        """The sum of the high watermarks of a topic."""
        return sum(
            int(self._client.get_watermark_offsets(partition, _ANSWER_TIMEOUT_S)[1])
            for partition in self._partitions[topic]
        )

    def close(self) -> None:
        self._client.close()
