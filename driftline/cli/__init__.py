"""The command line and the composition root: all that is in `driftline` and imports services."""
