"""Draw the report of a run: one HTML page with charts, without scripts."""
