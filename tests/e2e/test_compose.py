"""The compose stack on a real Docker engine keeps the trace of a demo over a restart.

It needs the image (`docker compose pull`), or `JAEGER_BIN` and a statically linked busybox to make
one.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PROGRAM, Running
from tests.e2e.jaeger import ROOT, Jaeger, until
from tests.helpers.compose import COMPOSE, compose_client, run

SERVICE = COMPOSE["services"]["jaeger"]
IMAGE = SERVICE["image"]
URL, OTLP = "http://127.0.0.1:16686", "http://127.0.0.1:4318"


class Stack:
    """docker-compose.yml as a separate project with its own volume."""

    def __init__(self, client: list[str]) -> None:
        self._compose = [*client, "-p", "zemosaic-e2e", "-f", str(ROOT / "docker-compose.yml")]

    def up(self) -> dict[str, Any]:
        """Start the stack, wait until it is healthy, and return the state of the container."""
        docker(*self._compose, "up", "-d")
        name = docker(*self._compose, "ps", "-q", "jaeger").strip()
        for _ in until(90):
            container = json.loads(docker("docker", "inspect", name))[0]
            if container["State"]["Health"]["Status"] == "healthy":
                return container
        raise RuntimeError(docker("docker", "logs", name))

    def down(self, *options: str) -> None:
        """Stop the stack; with option --volumes its volume is removed."""
        docker(*self._compose, "down", *options)


@pytest.fixture
def stack() -> Iterator[Stack]:
    """The stopped stack; it is removed after the test."""
    client = compose_client()
    if client is None or not shutil.which("docker") or run("docker", "info").returncode:
        pytest.skip("no running Docker engine, or no compose client")
    if any(_taken(int(port.split(":")[1])) for port in SERVICE["ports"]):
        pytest.skip("the ports of the stack are taken; is it up?")
    missing = not docker("docker", "image", "ls", "-q", IMAGE)
    if missing:
        _make_image()
    stack = Stack(client)
    yield stack
    stack.down("--volumes")
    if missing:
        docker("docker", "image", "rm", IMAGE)


def test_the_stack_keeps_a_demo(stack: Stack, tmp_path: Path) -> None:
    """The trace of a demo can be queried, also after `down` and `up`."""
    container = stack.up()
    _check_hardening(container)
    demo = Running(tmp_path / "demo", "demo", tmp_path / "demo", "--otlp").wait()
    assert demo.code == 0, demo.err
    assert f"{URL}/trace/{demo.trace_id}" in demo.out
    jaeger = Jaeger(URL, OTLP)
    before = jaeger.trace(demo.trace_id)
    assert before is not None
    assert len(before.spans) == len(demo.spans)

    stack.down()
    assert stack.up()["Id"] != container["Id"]
    after = jaeger.trace(demo.trace_id)
    assert after is not None
    assert after.plain() == before.plain()


def _check_hardening(container: dict[str, Any]) -> None:
    host = container["HostConfig"]
    bindings = [b for bound in host["PortBindings"].values() for b in bound]
    assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] == 2 << 30
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert container["Config"]["User"] == "10001"
    assert container["Config"]["Image"] == IMAGE
    # As the kernel reports it inside the container.
    inside = docker("docker", "exec", container["Id"], "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in inside.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    refused = subprocess.run(
        ["docker", "exec", "-u", "0", container["Id"], "touch", "/here"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Read-only file system" in refused.stderr


def _make_image() -> None:
    """Make an image like Jaeger's own from `JAEGER_BIN` and busybox."""
    busybox = shutil.which("busybox")
    if not PROGRAM or not busybox:
        pytest.skip(f"no image {IMAGE}, and no JAEGER_BIN and busybox to make one")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as image:
        image.add(PROGRAM, "jaeger", filter=_owned_by_root)
        image.add(busybox, "bin/busybox", filter=_owned_by_root)
        for name in ("wget", "cat", "touch"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        image.addfile(scratch)
    changes = ["USER 10001", 'ENTRYPOINT ["/jaeger"]', "ENV PATH=/bin"]
    options = [part for change in changes for part in ("--change", change)]
    docker("docker", "import", *options, "-", IMAGE, data=tar.getvalue())


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode = 0o755
    return entry


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def docker(*command: str, data: bytes | None = None) -> str:
    """Run a command and return its standard output; fail with its standard error."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
