"""The command line: one file a command, and the only place where rooms meet.

Command files import the rooms inside their functions, so that `smidgen --help` loads none of them.
"""

from smidgen.cli.app import main

__all__ = ["main"]
