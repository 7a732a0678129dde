"""Compare windows with the scoring model's reference: tests, thresholds and results."""
