"""The command line: one module per command.

Command modules import the other packages inside their functions, so that `smidgen --help` stays fast.
"""

from smidgen.cli.app import main

__all__ = ["main"]
