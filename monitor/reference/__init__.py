"""Windows against the reference of the model that scored them: tests, limits, the verdict."""
