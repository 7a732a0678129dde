"""Draw a run's report: one HTML page with charts and without scripts."""
