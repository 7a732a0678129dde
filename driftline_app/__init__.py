"""The command line, runs, backtests and reports, and the code that builds the services.

It imports all other packages, and none of them imports it.
"""
