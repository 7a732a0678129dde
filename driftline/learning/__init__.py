"""Encode columns as a model's feature matrix, and compute metrics. This package does no I/O."""
