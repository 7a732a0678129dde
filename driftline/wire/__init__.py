"""Define the wire format: the Kafka topics, the events in them, and the events' encoding."""
