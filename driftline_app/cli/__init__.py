"""The commands of `driftline`, with their options and tables."""
