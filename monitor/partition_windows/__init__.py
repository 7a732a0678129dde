"""Aggregate each partition's predictions and outcomes into its contribution to each window."""
