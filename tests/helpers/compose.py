"""The compose client and the compose file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def run(*command: str) -> subprocess.CompletedProcess:
    """Run a command and return its outcome, success or not."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def compose_client() -> list[str] | None:
    """Return the compose client of this machine; None if there is none that runs."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]) and run(*client, "version").returncode == 0:
            return client
    return None
