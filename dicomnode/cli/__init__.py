"""The `dicomnode` command: reads the settings, wires the parts, starts the processes.

Exit codes: 0 ok, 1 failure, 2 usage, 3 partial.
"""

import sys

from dicomnode.errors import DicomnodeError


def main() -> None:
    """Run the command line; an error that we raise on purpose is one readable line, not a traceback."""
    from dicomnode.cli.app import app

    try:
        app()
    except DicomnodeError as exc:
        sys.stderr.write(f"dicomnode: {exc}\n")
        sys.exit(1)
