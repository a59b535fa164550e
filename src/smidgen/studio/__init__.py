"""The studio: a local web page over a workspace, a folder with rows, recipes and runs.

It trains and asks nothing itself. It starts the same commands as a terminal would, each as a child process,
and reads the files that they write, so whatever it shows could also be made and read without it.
"""

from smidgen.studio.app import make_app
from smidgen.studio.serve import serve

__all__ = ["make_app", "serve"]
