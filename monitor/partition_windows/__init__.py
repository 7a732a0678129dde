"""Aggregate each Kafka partition's predictions and outcomes into partial aggregates of windows."""
