"""Commands, runs, backtests and their reports, and the code that builds the services.

This is the only package in `driftline` that imports services.
"""
