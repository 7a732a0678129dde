"""The command line, runs, backtests and reports, and the code that builds the services.

This package imports all other packages, and no other package imports it.
"""
