"""Directive ``run``: run commands of the shell while the site is built, and show what they print.

The commands of a page run one after the other in a folder of that page, ``docs/_runs/NAME``, which
is emptied when the page is read anew. A page can therefore show pictures that its commands made. A
command whose exit code is not the expected one fails the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 60


class Run(SphinxDirective):
    """Show the commands of its content, each with what it prints."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "exit": directives.nonnegative_int,
        "lines": directives.positive_int,
        "quiet": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return one block with commands and output; nothing with the option ``quiet``."""
        folder = self._folder()
        shown = [text for command in self.content if command for text in self._run(command, folder)]
        if "quiet" in self.options:
            return []
        text = "\n".join(shown)
        block = nodes.literal_block(text, text, language="console")
        self.set_source_info(block)
        return [block]

    def _folder(self) -> Path:
        """Return the folder of the page, emptied at the first directive of the page."""
        folder = Path(self.env.srcdir, "_runs", self.env.docname)
        if not self.env.temp_data.setdefault("run_folder", False):
            self.env.temp_data["run_folder"] = True
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def _run(self, command: str, folder: Path) -> list[str]:
        """Return the command after a prompt, and its output."""
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment(), timeout=SECONDS, text=True,
            encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wanted = self.options.get("exit", 0)
        if done.returncode != wanted:
            raise self.error(f"exit code {done.returncode}, not {wanted}: {command}\n{done.stdout}")
        lines = ESCAPES.sub("", done.stdout).rstrip().splitlines()
        most = self.options.get("lines", len(lines))
        cut = ["..."] if most < len(lines) else []
        return [f"$ {command}", *lines[:most], *cut]


def environment() -> dict[str, str]:
    """Return the environment of a command: this Python first, and a terminal of fixed width."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    faults = str(Path(__file__).parents[2] / "tests" / "faults" / "inject")
    fixed = {"PATH": path, "FAULTS": faults, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ZEMOSAIC_"))}
    return kept | fixed


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("run", Run)
    return {"version": "1", "parallel_read_safe": True}
