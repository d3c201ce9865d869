"""Where the installed program begins. Knows nothing but how to be stopped, also while all the rest is imported."""

import sys

INTERRUPTED = 130  # the exit status after Ctrl-C


def main() -> None:
    """Run the command line and exit; Ctrl-C ends it without a word, whatever it is at."""
    try:
        from vlyard.cli.app import main as run  # a second's work, in which people change their minds

        run()
    except KeyboardInterrupt:  # typer guards the commands themselves, and ends with the same status
        sys.exit(INTERRUPTED)
