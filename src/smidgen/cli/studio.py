"""`smidgen studio`: a local web page over a folder of rows, recipes and runs."""

import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from smidgen.cli.console import print_json, say
from smidgen.options import whole

DEFAULT_PORT = 8766


def studio(
    workspace: Annotated[Path, Parameter(help="Folder with your rows, recipes and runs.")] = Path("."),
    /,
    *,
    port: Annotated[
        int,
        Parameter(
            converter=whole,
            validator=Number(gte=0, lte=65535),
            help="Port on this machine; 0 takes a free one.",
        ),
    ] = DEFAULT_PORT,
    no_open: Annotated[
        bool, Parameter(show_default=False, help="Only print the address, and open no browser.")
    ] = False,
    json: Annotated[
        bool, Parameter(name="--json", help="Print the address as one JSON object to stdout.")
    ] = False,
) -> None:
    """Open a local web page: data, recipe, run, report, comparison, playground and exports.

    It starts the commands of this program in the folder, and reads what they write. It listens on this
    machine only, and only a browser that has the printed address may use it. Ctrl-C stops it and what it has
    started; a training goes on from its last checkpoint when it is run again.
    """
    from smidgen.studio import serve
    from smidgen.studio.workspace import Workspace

    def opened(address: str) -> None:
        if json:
            print_json({"workspace": str(workspace.resolve()), "address": address}, on_one_line=True)
        else:
            say(f"studio of {workspace.resolve()}: {address}")
        if not no_open:
            webbrowser.open(address)

    serve(Workspace(workspace), port, opened)
