"""The state of the installation and of the machine, one finding for each check."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from .._version import __version__
from ..errors import UserError
from ..photometry._kernels import COMPILED
from ..pipeline import PRELOAD, describe_package
from ..runtime.pool import usable_processors
from ..runtime.process_start import start_context
from .doctor_network import collector, page

GOOD, WARNING, WRONG = "ok", "note", "wrong"
#: Seconds until a worker process has started, and until the Docker client has answered.
WORKER_TIMEOUT, DOCKER_TIMEOUT = 60.0, 10.0
#: Bytes of temporary space below which a run of few tiles fails, and of many tiles may.
LEAST_SPACE, MODEST_SPACE = 100 << 20, 2 << 30
#: Difference between two clocks in seconds: files, where a run would take its tables for old ones;
#: the collector, where spans would appear at the wrong place.
FILE_SKEW, COLLECTOR_SKEW = 1.0, 5.0
#: Extras with packages of interest.
EXTRAS = ("plot", "stars", "parquet", "notebook", "dask")
#: Starts of the names of the variables that change a run.
VARIABLES = (
    "OTEL_", "JAEGER_", "ZEMOSAIC_", "OMP_", "OPENBLAS_", "MKL_", "NO_COLOR", "TMPDIR", "PYTHON",
)  # fmt: skip
#: No correct clock shows an earlier time (2025-01-01).
EARLIEST = 1_735_689_600


@dataclass(frozen=True)
class Finding:
    """The result of a check: "ok", "note" for a remark, or "wrong"."""

    name: str
    text: str
    state: str = GOOD

    def __str__(self) -> str:
        return f"{self.state:6} {self.name:13} {self.text}"


def describe_machine() -> Iterator[Finding]:
    """Yield versions, the system, and the variables that change a run."""
    yield Finding("zemosaic", f"{__version__} in {Path(__file__).parents[1]}")
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("python", f"{implementation}, {sys.executable}")
    yield Finding("system", f"{platform.platform()}, {usable_processors()} usable processors")
    yield Finding(
        "terminal", f"{sys.stdout.encoding}, {shutil.get_terminal_size().columns} columns"
    )
    installed = (f"{r.name} {_installed(r)}" for r in _requirements() if _installed(r))
    yield Finding("packages", ", ".join(dict.fromkeys(installed)))
    # Their values may be secret.
    names = sorted(name for name in os.environ if name.startswith(VARIABLES))
    yield Finding("environment", ", ".join(names) or "no variable that changes a run")


def check_machine(otlp: str | None) -> Iterator[Finding]:
    """Yield the findings of all checks.

    Parameters
    ----------
    otlp : str or None
        Endpoint that has to be reachable; empty for the default endpoint. None for the endpoint of
        the environment, or else the default endpoint, which need not be there.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _packages, _kernels, _workers, _temporary_space, _clock, _docker,
    )  # fmt: skip
    for check in checks:
        yield from check()
    yield from _collector(otlp)


def report_lines(findings: list[Finding]) -> list[str]:
    """Return the findings as lines of a bug report, without the name of the home folder."""
    lines = (str(finding).replace(str(Path.home()), "~") for finding in findings)
    return ["```", *lines, "```"]


def _requirements() -> list[Requirement]:
    """Return the requirements of this package and of its extras for users; none of a copy."""
    try:
        listed = [Requirement(text) for text in requires("zemosaic") or ()]
    except PackageNotFoundError:
        return []
    return [entry for entry in listed if any(_belongs_to(entry, extra) for extra in ("", *EXTRAS))]


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    """Return whether an extra, or the package itself if that is empty, has a requirement here."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(requirement: Requirement) -> str:
    """Return the installed version of a requirement, empty if there is none."""
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return ""


def _packages() -> Iterator[Finding]:
    """Check the versions of all requirements; the packages of extras may be missing."""
    requirements = _requirements()
    if not requirements:
        text = "zemosaic is a copy without a list of its requirements: none was checked"
        yield Finding("packages", text, WARNING)
        return
    problems = []
    for requirement in requirements:
        installed = _installed(requirement)
        if installed and not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        elif not installed and _belongs_to(requirement, ""):
            problems.append(f"{requirement.name} is missing")
    for problem in problems:
        yield Finding("packages", f"{problem}; pip install --upgrade zemosaic", WRONG)
    if not problems:
        yield Finding("packages", "all as required")


def _kernels() -> Iterator[Finding]:
    if COMPILED:
        yield Finding("kernels", "compiled")
        return
    text = "not compiled: pairs take several times as long; install a wheel, or a C compiler and "
    yield Finding("kernels", f"{text}zemosaic again", WARNING)


def _workers() -> Iterator[Finding]:
    """Start a worker process, and compare its package with the package of this process."""
    from ..runtime.process_pool import ProcessPool

    method = start_context(PRELOAD).get_start_method()
    pool = ProcessPool(1, PRELOAD, describe_package)
    started = time.monotonic()
    try:
        result = pool.submit(describe_package, ()).result(WORKER_TIMEOUT)
    except FutureTimeoutError:
        text = f"{method}: no worker has started within {WORKER_TIMEOUT:.0f} s; use --pool threads"
        yield Finding("workers", text, WRONG)
    except Exception as error:  # noqa: BLE001 - whatever the operating system refuses
        yield Finding("workers", f"{method}: {error}; use --pool threads", WRONG)
    else:
        here = result.pid == os.getpid()
        text = f"{method}, the first was ready after {time.monotonic() - started:.1f} s"
        if here:
            text = f"{method}: no process can be started; jobs would run one after the other"
        yield Finding("workers", text, WRONG if here else GOOD)
    finally:
        pool.close()


def _temporary_space() -> Iterator[Finding]:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(1 << 20))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("temporary", f"cannot be written ({error}); set TMPDIR", WRONG)
        return
    text = f"{folder}, {free / 1e9:.1f} GB free"
    if free < MODEST_SPACE:
        text += "; previews need about 1 MB a tile and colour: make room, or set TMPDIR"
    state = WRONG if free < LEAST_SPACE else WARNING if free < MODEST_SPACE else GOOD
    yield Finding("temporary", text, state)


def _clock() -> Iterator[Finding]:
    """Compare the clock with the clock of the file system, by which tables count as new."""
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    state = GOOD
    if now < EARLIEST:
        text, state = f"{text} is in the past; set it", WRONG
    with tempfile.NamedTemporaryFile() as file:
        skew = os.stat(file.name).st_mtime - now
    if abs(skew) > FILE_SKEW:
        text, state = f"{text}; that of the temporary folder is {skew:+.1f} s off", WRONG
    yield Finding("clock", text, state)


def _docker() -> Iterator[Finding]:
    """Ask the Docker engine, which only the stack with Jaeger needs, for its version."""
    program = shutil.which("docker")
    if program is None:
        yield Finding("docker", "not installed; only the stack with Jaeger needs it", WARNING)
        return
    command = [program, "version", "--format", "{{.Server.Version}}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=DOCKER_TIMEOUT, check=False
        )
        answer, failed = (result.stdout.strip(), result.stderr.strip()), result.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        answer, failed = ("", str(error)), True
    if failed:
        reason = (answer[1].splitlines() or ["no answer"])[-1]
        yield Finding("docker", f"the engine does not answer ({reason})", WARNING)
    else:
        yield Finding("docker", f"engine {answer[0]}")


def _collector(otlp: str | None) -> Iterator[Finding]:
    """Send an empty request to the collector, and compare its clock."""
    try:
        result = collector(otlp)
    except UserError as error:
        yield Finding("collector", str(error), WRONG)
        return
    if result.problem:
        hint = "" if result.expected else "; docker compose up -d starts one, if you want one"
        state = WRONG if result.expected else WARNING
        yield Finding("collector", f"{result.address}: {result.problem}{hint}", state)
        return
    yield Finding("collector", f"{result.address} takes traces")
    address, problem, skew = page(result.endpoint)
    state = WARNING if problem else GOOD
    yield Finding("jaeger", f"{address}: {problem or 'shows its page'}", state)
    if skew is not None and abs(skew) > COLLECTOR_SKEW:
        yield Finding("clock", f"that of {address} is {skew:+.0f} s off: set both", WRONG)
