"""Measure Driftline and comparable programs from outside, on a separate Apache Kafka."""
