"""Ray on this machine or a cluster: the import of an extra, and a quiet start."""

import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from smidgen.errors import WorkError
from smidgen.options import Workers

try:
    import pyarrow as _pyarrow
    import ray as _ray
    import ray.data.exceptions
    import ray.data.extensions
    import ray.exceptions
except ImportError:
    pyarrow: Any = None
    ray: Any = None
else:
    pyarrow, ray = _pyarrow, _ray

OBJECTS = "objects"
"""The column of a block that holds objects."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its processes write to the terminal what their logs have too
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # which Ray warns of otherwise
    "RAY_worker_niceness": "0",  # 15 otherwise: whatever else runs here would come first
}
"""Settings of Ray, where the environment has no others."""


def block_of(objects: Sequence[Any], **columns: Any) -> Any:
    """Return objects as a table of Arrow, with further columns that have one value each.

    Ray writes the objects, as everything that goes from one of its processes to another.
    """
    rest = {name: [value] * len(objects) for name, value in columns.items()}
    held = ray.data.extensions.ArrowPythonObjectArray.from_objects(objects)
    return pyarrow.table({OBJECTS: held, **rest})


def objects_of(block: Any) -> list[Any]:
    """Return the objects of such a table."""
    return block[OBJECTS].to_pylist()


def start_ray(workers: Workers, number: int) -> None:
    """Start or join Ray, without dashboard, statistics of usage and logs in the terminal.

    Raises:
        WorkError: there is no such cluster.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _reach(workers.address)
        with _silent():
            if workers.address is None:
                cores = max(os.cpu_count() or 1, math.ceil(number * workers.cpus))
                ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            else:
                ray.init(workers.address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = "on this machine" if workers.address is None else f"at {workers.address}"
        raise WorkError(
            f"Ray could not be started or joined {place} ({first}); a cluster is started with `ray start "
            "--head`, and --ray-address names it"
        ) from None


def _reach(address: str | None) -> None:
    """Connect to a cluster's address; Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: it has no port that is a number.
    """
    if address is None or ":" not in address:  # here, or `auto`
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Ray's native code from writing to the terminal that its log level was set, and the like."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
