"""Benchmark Driftline and comparable programs, as separate processes on a temporary Kafka."""
