"""The files in deploy/ are what their systems read, and start a server with options that it has."""

import json
import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from smidgen.cli.app import app

FOLDER = Path(__file__).parent.parent / "deploy"
UNIT = FOLDER / "smidgen.service"
PLIST = FOLDER / "dev.smidgen.serve.plist"
CONTAINER = FOLDER / "Containerfile"


def unit_of() -> dict[str, list[str]]:
    """The settings of the unit, by their names."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if found := re.fullmatch(r"(\w+)=(.*)", line):
            settings.setdefault(found[1], []).append(found[2])
    return settings


def container_of() -> dict[str, list[str]]:
    """The instructions of the last stage, by their names."""
    text = CONTAINER.read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    found: dict[str, list[str]] = {}
    for name, rest in re.findall(r"^([A-Z]+) +(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(rest.strip())
    return found


def commands() -> dict[str, list[str]]:
    """The command of each file, without its program."""
    (start,) = unit_of()["ExecStart"]
    (given,) = container_of()["CMD"]
    return {
        UNIT.name: shlex.split(start)[1:],
        PLIST.name: plistlib.loads(PLIST.read_bytes())["ProgramArguments"][1:],
        CONTAINER.name: json.loads(given),
    }


def value_of(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


@pytest.mark.parametrize("name", commands())
def test_the_server_has_the_options(name: str, tmp_path: Path):
    command = commands()[name]
    assert command[0] == "serve" and "--api-keys" in command
    if "serve" not in list(app):
        pytest.skip("there is no command serve")
    app.parse_args(command, exit_on_error=False, print_error=False)
    with pytest.raises(Exception, match="--apikeys"):  # so that the line above can fail
        app.parse_args([*command, "--apikeys", "x"], exit_on_error=False, print_error=False)


def test_only_this_machine_is_served():
    hosts = {name: value_of(command, "--host") for name, command in commands().items()}
    assert hosts == {UNIT.name: "127.0.0.1", PLIST.name: "127.0.0.1", CONTAINER.name: "0.0.0.0"}
    assert "-p 127.0.0.1:8765:8765" in CONTAINER.read_text()
    assert {value_of(command, "--port") for command in commands().values()} == {"8765"}


def test_running_requests_are_finished_before_a_service_is_killed():
    (patience,) = unit_of()["TimeoutStopSec"]
    assert int(patience) > int(value_of(commands()[UNIT.name], "--grace"))
    agent = plistlib.loads(PLIST.read_bytes())
    assert agent["ExitTimeOut"] > int(value_of(commands()[PLIST.name], "--grace"))
    assert agent["KeepAlive"] == {"SuccessfulExit": False} and agent["Umask"] == 0o77


def test_the_unit_is_confined():
    settings = unit_of()
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "ProtectHome"):
        assert settings[name] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"] and settings["CapabilityBoundingSet"] == [""]
    assert settings["Environment"] == [f"SMIDGEN_CACHE=/var/cache/{settings['CacheDirectory'][0]}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_unit(tmp_path: Path):
    program = tmp_path / "smidgen"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/smidgen/bin/smidgen", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and UNIT.name not in done.stderr, done.stderr


def test_the_container_runs_without_root_and_is_healthy_by_its_server():
    last = container_of()
    assert last["USER"] == ["10001"] and "--uid 10001" in last["RUN"][0]
    assert last["VOLUME"] == ["/cache"] and "SMIDGEN_CACHE=/cache" in last["ENV"][0]
    assert last["ENTRYPOINT"] == ['["smidgen"]'] and last["STOPSIGNAL"] == ["SIGTERM"]
    _, _, check = last["HEALTHCHECK"][0].partition("CMD ")
    program, flag, code = json.loads(check)
    assert (program, flag) == ("python", "-c") and ":8765/health'" in code
    compile(code, "healthcheck", "exec")
    assert "--read-only --cap-drop all --security-opt no-new-privileges" in CONTAINER.read_text()
    for copied in re.findall(r"^COPY (?!--)(.*) \S+$", CONTAINER.read_text(), re.MULTILINE):
        assert all((FOLDER.parent / name).exists() for name in copied.split())
