"""Measures Driftline beside its peers, from outside, on an Apache Kafka of its own."""
