"""Command-line interface: the `driftline` commands, their options and the tables they print."""
