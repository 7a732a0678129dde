"""`python -m driftline_app.cli`: the command line, by whichever Python runs it."""

from driftline_app.cli.entry import start

if __name__ == "__main__":
    start()
