"""Entry point of the `driftline` script: handle Ctrl-C before importing the commands."""

import sys

from driftline.interrupts import EXIT_CODE, catch, pressed


def start() -> None:
    """Run the command line."""
    try:
        catch()
        from driftline_app.cli.main import main
    except BaseException as error:
        # If Ctrl-C interrupts the import of a library, the library may raise another exception.
        if not (pressed() or isinstance(error, KeyboardInterrupt)):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_CODE)
    main()
