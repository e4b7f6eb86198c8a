"""The compose client and the compose file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def run(*command: str) -> subprocess.CompletedProcess:
    """What a command answered, whatever it was."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def compose_client() -> list[str] | None:
    """The compose client of this machine, if it has one that runs."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]) and run(*client, "version").returncode == 0:
            return client
    return None
