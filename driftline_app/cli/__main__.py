"""Run the `driftline` command line with `python -m driftline_app.cli`."""

from driftline_app.cli.entry import start

if __name__ == "__main__":
    start()
