"""`python -m driftline.cli`: the command line, by whichever Python runs it."""

from driftline.cli.main import main

if __name__ == "__main__":
    main()
