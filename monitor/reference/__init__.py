"""Test windows for drift against their model's reference: tests, thresholds and results."""
