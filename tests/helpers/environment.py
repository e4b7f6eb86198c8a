"""The environment of a test."""

from __future__ import annotations

import os

import pytest


def remove_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxies, which would keep a test from its own collector."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
