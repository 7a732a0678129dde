"""Trainer service: train models on outcomes from Kafka, and announce better models."""
