"""Encode columns as a model's feature matrix, and compute metrics. Pure computation on arrays."""
