"""GGUF export: `smidgen export gguf` compared with llama.cpp's `convert_hf_to_gguf.py` on the same weights.

    python tests/tools/real_shapes.py Qwen3-1.7B /tmp/qwen3-1.7b
    python benchmarks/export_gguf.py /tmp/qwen3-1.7b --converter llama.cpp/convert_hf_to_gguf.py

llama.cpp's converter needs torch, so it may run with another Python (`--python`). It identifies tokenizers by
a hash of a tokenized text and refuses unknown ones, such as that of a model from `real_shapes.py`: add its
hash to the copy of the converter that is measured. Without `--converter`, only smidgen is measured.

(The file is not called gguf.py because that name would hide the package `gguf` from every benchmark.)

Each converter runs in a separate process, measured from start to exit, with the model's files in the page
cache. Memory is the peak resident set, which includes mapped pages of the model's files, and the peak
anonymous memory, which does not. The tensors of both files are compared byte for byte.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import write_results

POLL = 0.01  # seconds
SHAPES = Path(__file__).parents[1] / "tests/tools/real_shapes.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="model folder; default: Qwen3-0.6B's shape")
    parser.add_argument("--converter", type=Path, help="convert_hf_to_gguf.py of llama.cpp")
    parser.add_argument("--python", default=sys.executable, help="Python interpreter for the converter")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--verify", action="store_true", help="also verify smidgen's file in llama.cpp")
    arguments = parser.parse_args()
    near = arguments.model.parent if arguments.model else None
    with tempfile.TemporaryDirectory(prefix="gguf-", dir=near) as scratch:
        if arguments.model is None:
            arguments.model = Path(scratch) / "Qwen3-0.6B"
            subprocess.run([sys.executable, str(SHAPES), "Qwen3-0.6B", str(arguments.model)], check=True)
        for file in sorted(arguments.model.glob("*.safetensors")):
            with file.open("rb") as content:
                while content.read(1 << 24):
                    pass
        ours, theirs = Path(scratch) / "ours.gguf", Path(scratch) / "theirs.gguf"
        contenders = {"smidgen": ours_command(arguments.model, ours)}
        if arguments.converter is not None:
            command = [arguments.python, str(arguments.converter), str(arguments.model)]
            contenders["llama.cpp"] = [*command, "--outtype", "q8_0", "--outfile", str(theirs)]
        results: dict[str, Any] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            ours.unlink(missing_ok=True)
            for name, command in contenders.items():
                results[name].append(measure(command))
                print(name, results[name][-1], file=sys.stderr)
        results["model"] = arguments.model.name
        if arguments.converter is not None:
            results |= ratios(results) | {"same_tensors": same_tensors(ours, theirs)}
        if arguments.verify:
            results["verified"] = verify(ours, arguments.model)
    print(write_results("export_gguf", results))
    print(results)


def ours_command(model: Path, out: Path) -> list[str]:
    """Return the command that writes the file without verifying it, as the other converter does."""
    words = ["-m", "smidgen", "export", "gguf", "--model", str(model), "--out", str(out), "--no-verify"]
    return [sys.executable, *words]


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Return seconds and peak memory of a process, and the machine's load before it.

    Raises:
        SystemExit: the process failed; the message contains the end of its output.
    """
    load, start = os.getloadavg()[0], time.perf_counter()
    resident = anonymous = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            found = memory(process.pid)
            resident, anonymous = max(resident, found[0]), max(anonymous, found[1])
            time.sleep(POLL)
        seconds = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{said.read()[-3000:]}")
    return {
        "seconds": seconds,
        "peak_resident_bytes": resident,
        "peak_anonymous_bytes": anonymous,
        "load": load,
    }


def memory(pid: int) -> tuple[int, int]:
    """Return the peak resident set and current anonymous memory of a process in bytes; 0 after its exit."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmHWM|RssAnon):\s*(\d+) kB", status, re.MULTILINE))
    return int(found.get("VmHWM", 0)) * 1024, int(found.get("RssAnon", 0)) * 1024


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Return the ratios of the best rounds: theirs to ours in time, ours to theirs in memory."""
    best = {
        name: {key: min(run[key] for run in results[name]) for key in results[name][0]}
        for name in ("smidgen", "llama.cpp")
    }
    ours, theirs = best["smidgen"], best["llama.cpp"]
    return {
        "times_faster": theirs["seconds"] / ours["seconds"],
        "share_of_resident": ours["peak_resident_bytes"] / theirs["peak_resident_bytes"],
        "share_of_anonymous": ours["peak_anonymous_bytes"] / theirs["peak_anonymous_bytes"],
    }


def same_tensors(ours: Path, theirs: Path) -> dict[str, Any]:
    """Return the number of tensors of a file, and the names of those that differ from the other's bytes."""
    from gguf import GGUFReader

    left, right = ({t.name: t for t in GGUFReader(path).tensors} for path in (ours, theirs))
    differing = [
        name
        for name in sorted(left.keys() | right.keys())
        if name not in left
        or name not in right
        or left[name].tensor_type != right[name].tensor_type
        or not (left[name].data == right[name].data).all()
    ]
    return {"tensors": len(left), "differing": differing}


def verify(file: Path, model: Path) -> dict[str, Any]:
    """Return the results of verifying the file in llama.cpp."""
    from smidgen.export.gguf import verify_gguf

    return {key: value for key, value in verify_gguf(file, str(model)).to_json().items() if key != "path"}


if __name__ == "__main__":
    main()
