"""The command line beside its commands' work: completion in shells, python -m, and the doctor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import Run
from tests.helpers.otlp_receiver import dead_port, http_receiver
from zemosaic import __version__
from zemosaic.cli import doctor
from zemosaic.cli.doctor_network import page

PROGRAM = Path(sys.executable).with_name("zemosaic")
# What each shell does when Tab is pressed: the line, and how it lists the completions.
SHELLS = {
    "bash": """
        eval "$(_ZEMOSAIC_COMPLETE=bash_source zemosaic)"
        COMP_WORDS=(zemosaic {words}); COMP_CWORD={position}
        _zemosaic_completion zemosaic; printf '%s\\n' "${{COMPREPLY[@]}}" """,
    "zsh": """
        autoload -Uz compinit; compinit -D
        eval "$(_ZEMOSAIC_COMPLETE=zsh_source zemosaic)"
        _describe() {{ print -l -- "${{(@P)3}}" }}
        compadd() {{ print -l -- "${{(@P)@[-1]}}" }}
        _path_files() {{ print files }}
        words=(zemosaic {words}); CURRENT={position}+1; _zemosaic_completion""",
    "fish": """
        _ZEMOSAIC_COMPLETE=fish_source zemosaic | source
        complete -C "zemosaic {words}" """,
}
Usage = namedtuple("Usage", "total used free")


def complete(shell: str, words: list[str], folder: Path) -> list[str]:
    """Return the completions that a shell offers for the last word."""
    program = shutil.which(shell)
    if program is None or not PROGRAM.exists():
        pytest.skip(f"{shell} or the program zemosaic is not installed")
    quoted = " ".join(word or ("" if shell == "fish" else "''") for word in words)
    script = SHELLS[shell].format(words=quoted, position=len(words))
    path = os.pathsep.join([str(PROGRAM.parent), os.environ["PATH"]])
    result = subprocess.run(
        [program, *(["-f"] if shell == "zsh" else []), "-c", script],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder)},
    )  # fmt: skip
    return [line.replace(":", "\t").split("\t")[0] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_commands_and_values(shell: str, tmp_path: Path) -> None:
    """Tab completes commands and the values of options, in each shell that is installed."""
    assert complete(shell, ["d"], tmp_path) == ["demo", "doctor"]
    values = complete(shell, ["intertile", "--pool", ""], tmp_path)
    assert {"processes", "threads", "serial"} <= set(values)


def test_tiles_are_completed_as_files(tmp_path: Path) -> None:
    """For the tiles, the shell completes names of files."""
    words = {"COMP_WORDS": "zemosaic intertile a", "COMP_CWORD": "2"}
    result = subprocess.run(
        [sys.executable, "-m", "zemosaic"], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, **words, "_ZEMOSAIC_COMPLETE": "bash_complete"},
    )  # fmt: skip
    assert result.stdout.strip() == "file,a"


def test_the_package_runs_as_a_module(write_tiles: Callable[..., list[Path]]) -> None:
    """`python -m zemosaic` is the command line; its workers are processes as well."""
    tiles = write_tiles()
    command = [sys.executable, "-m", "zemosaic"]
    shown = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout.startswith(f"zemosaic, version {__version__} ")
    folder = tiles[0].parent.parent / "run"
    done = subprocess.run(
        [*command, "intertile", *map(str, tiles), "-o", str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 of 4, in 1 group" in done.stdout


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no Docker be installed, so that the checks do not depend on this machine."""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def findings(text: str) -> dict[str, str]:
    """Return the state of each check in the output of the doctor."""
    lines = text.partition("\n\n")[0].splitlines()[:-1]
    return {line.split()[1]: line.split()[0] for line in lines}


@pytest.mark.usefixtures("no_docker")
def test_the_doctor_finds_a_good_installation(zemosaic: Callable[..., Run]) -> None:
    """Nothing is wrong where all packages are installed; a collector need not be there."""
    result = zemosaic("doctor")
    assert result.code == 0, result.out
    found = findings(result.out)
    assert {found[name] for name in ("packages", "workers", "temporary", "clock")} == {"ok"}
    assert found["docker"] == "note"
    block = result.out.partition("```\n")[2]
    assert block.endswith("```\n")
    for name in ("zemosaic", "python", "system", "numpy", "kernels", "workers", "environment"):
        assert name in block


@pytest.mark.usefixtures("no_docker")
def test_the_bug_report_has_no_secret(
    zemosaic: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables are named without their values, and the home folder is ~."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hush")
    monkeypatch.setenv("HOME", str(Path(sys.executable).parent))
    monkeypatch.setenv("USERPROFILE", str(Path(sys.executable).parent))
    with dead_port() as port:
        result = zemosaic("doctor", "--otlp", f"http://me:hush@127.0.0.1:{port}")
    block = result.out.partition("```\n")[2]
    assert "OTEL_EXPORTER_OTLP_HEADERS" in block
    assert "hush" not in result.out
    assert str(Path(sys.executable).parent) not in block


@pytest.mark.usefixtures("no_docker")
def test_a_collector_that_is_asked_for_has_to_be_there(zemosaic: Callable[..., Run]) -> None:
    """With --otlp a collector that refuses, or none, is wrong and named; a good one is not."""
    with http_receiver() as (endpoint, _):
        good = zemosaic("doctor", "--otlp", endpoint)
    with http_receiver(refusing=True) as (endpoint, _):
        refusing = zemosaic("doctor", "--otlp", endpoint)
    with dead_port() as port:
        missing = zemosaic("doctor", "--otlp", f"http://127.0.0.1:{port}")
    assert (good.code, refusing.code, missing.code) == (0, 1, 1)
    assert findings(good.out)["collector"] == "ok"
    assert findings(refusing.out)["collector"] == findings(missing.out)["collector"] == "wrong"
    assert "403" in refusing.out
    assert f"http://127.0.0.1:{port}/v1/traces: " in missing.out


def test_the_page_of_jaeger_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is not there is a problem with its address, and has no clock."""
    with dead_port() as port:
        monkeypatch.setenv("JAEGER_URL", f"http://127.0.0.1:{port}")
        address, problem, skew = page("http://127.0.0.1:4318/v1/traces")
    assert (address, skew) == (f"http://127.0.0.1:{port}", None)
    assert problem


@pytest.mark.usefixtures("no_docker")
def test_the_doctor_names_what_is_wrong(
    zemosaic: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old package, a full disk, a wrong clock and a worker that cannot start are each named."""

    def refuse(*_: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(1, 1, 5_000_000))
    monkeypatch.setattr(doctor.time, "time", lambda: 1e9)
    monkeypatch.setattr("zemosaic.runtime.process_pool.ProcessPool.submit", refuse)
    result = zemosaic("doctor")
    assert result.code == 1
    found = findings(result.out)
    assert {found[name] for name in ("packages", "temporary", "clock", "workers")} == {"wrong"}
    for reason in ("numpy 0.0.1 is not", "0.0 GB free", "2001-09-09", "--pool threads"):
        assert reason in result.out
