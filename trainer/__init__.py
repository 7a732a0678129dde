"""Trainer service: train models on outcomes from Kafka and publish them, one module per step."""
