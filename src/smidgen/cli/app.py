"""The `smidgen` application: subcommands, exit codes and error output.

Exit codes: 0 success, 1 failure, 2 invalid input, 130 interrupted. With `SMIDGEN_DEBUG=1` an error shows its
traceback.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError, UnusedCliTokensError

from smidgen import __doc__ as summary
from smidgen import __version__
from smidgen.cli.bench import bench
from smidgen.cli.compare import compare
from smidgen.cli.data import data
from smidgen.cli.doctor import doctor
from smidgen.cli.evaluate import evaluate
from smidgen.cli.export import export
from smidgen.cli.generate import generate
from smidgen.cli.importing import importing
from smidgen.cli.inspect import inspect
from smidgen.cli.judge import judge
from smidgen.cli.memory import memory
from smidgen.cli.plan import plan
from smidgen.cli.quantize import quantize
from smidgen.cli.rewardbench import rewardbench
from smidgen.cli.route import route
from smidgen.cli.run import run
from smidgen.cli.serve import serve
from smidgen.cli.sweep import sweep
from smidgen.cli.train import train
from smidgen.errors import SmidgenError, UserError

COMMANDS = (
    run,
    plan,
    train,
    sweep,
    evaluate,
    judge,
    route,
    compare,
    rewardbench,
    generate,
    serve,
    bench,
    inspect,
    quantize,
    doctor,
)

app = App(
    name="smidgen",
    help=(summary or "").partition(": ")[2].capitalize(),
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
for position, command in enumerate(COMMANDS):
    app.command(command, sort_key=position)
app.command(export)
app.command(importing)
app.command(data)
app.command(memory)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its exit code."""
    sys.exit(exit_code(sys.argv[1:] if arguments is None else list(arguments)))


def exit_code(arguments: list[str]) -> int:
    """Run one command, print any error as one sentence on stderr, and return the exit code."""
    if os.environ.get("SMIDGEN_DEBUG") == "1":
        app(arguments)
        return 0
    warnings.showwarning = _show_warning
    try:
        app(arguments)
        sys.stdout.flush()
    except CycloptsError as error:
        return _fail(2, _usage_sentence(error))
    except UserError as error:
        return _fail(2, str(error))
    except SmidgenError as error:
        return _fail(1, str(error))
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. Without this, Python would fail to flush stdout on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(1, _system_sentence(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".rstrip(": ")
        return _fail(1, f"smidgen failed unexpectedly ({fault}); set SMIDGEN_DEBUG=1 for the traceback")
    return 0


def _fail(code: int, sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _usage_sentence(error: CycloptsError) -> str:
    """Describe what is wrong with the arguments, and point to the help page."""
    words = " ".join(("smidgen", *(error.command_chain or ())))
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"Unexpected argument '{error.unused_tokens[0]}'. See `{words} --help`."
    if isinstance(error, UnknownOptionError) and not error.argument_collection:
        # `file_or_stdin` raises it without the options that cyclopts searches for similar names.
        command = reduce(getitem, error.command_chain or (), app)
        error.argument_collection = command.assemble_argument_collection()
    return f"{error} See `{words} --help`."


def _system_sentence(error: OSError) -> str:
    """Describe an error of the operating system and the file that it concerns."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{(error.strerror or str(error)).lower()}; fix this and run again"


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning for the user on one line; hide warnings for developers."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
