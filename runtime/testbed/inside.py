"""Run a command in the network namespace that another process holds: `python -m cutlayer.runtime.testbed.inside PID FD COMMAND...`."""

from __future__ import annotations

import os
import sys

from cutlayer.runtime.testbed import namespaces


def main(arguments: list[str]) -> None:
    """Become the command; does not return."""
    pid, descriptor, *command = arguments
    namespaces.enter(os.open(f"/proc/{int(pid)}/fd/{int(descriptor)}", os.O_RDONLY))
    os.execvp(command[0], command)  # noqa: S606 - the command that the testbed was asked to run


if __name__ == "__main__":
    main(sys.argv[1:])
