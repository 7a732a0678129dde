"""`python -m driftline.cli`: the command line, by whichever Python runs it."""

from driftline.cli.entry import start

if __name__ == "__main__":
    start()
