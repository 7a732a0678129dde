"""The `driftline` script: handle Ctrl-C before anything else is imported."""

import sys

from driftline.interrupts import EXIT_CODE, catch, pressed


def start() -> None:
    """Run the command line."""
    try:
        catch()
        from driftline_app.cli.main import main
    except BaseException as error:
        # A library may turn the interrupt into another error of its import.
        if not (pressed() or isinstance(error, KeyboardInterrupt)):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_CODE)
    main()
