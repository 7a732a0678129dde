"""Inference service: score feature records from Kafka with the champion model."""
