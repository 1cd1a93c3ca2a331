"""The command `geoseg`, and `python -m geoseg`."""

import os
import signal


def main() -> None:
    """Run the program; Ctrl-C ends it without a traceback while it is imported, too."""
    signal.signal(signal.SIGINT, _stop)
    from geoseg.cli import main as run

    run()


def _stop(*_: object) -> None:
    """End at once: nothing is at work yet."""
    os.write(2, b"geoseg: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
