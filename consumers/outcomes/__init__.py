"""Outcomes service: match predictions with their labels in a windowed join of two Kafka topics."""
