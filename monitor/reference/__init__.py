"""Compare windows with the reference of the model that scored them: tests, thresholds, verdict."""
