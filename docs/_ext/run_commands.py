"""Directives that run examples while the site is built, and show what they print.

``run`` runs commands of the shell, one a line, and ``python`` a script. The examples of a page run
one after the other in a folder of that page, ``docs/_runs/NAME``, which is emptied when the page is
read anew. A page can therefore show pictures that its examples made. One whose exit code is not the
expected one fails the build.
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
SECONDS = 300


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
        shown = []
        for command in filter(None, self.content):
            shown += [f"$ {command}", *self.output_of(command, folder)]
        return [] if "quiet" in self.options else [self.block(shown, "console")]

    def block(self, lines: list[str], language: str) -> nodes.Node:
        """Return lines as a block of code or output."""
        text = "\n".join(lines)
        block = nodes.literal_block(text, text, language=language)
        self.set_source_info(block)
        return block

    def _folder(self) -> Path:
        """Return the folder of the page, emptied at the first directive of the page."""
        folder = Path(self.env.srcdir, "_runs", self.env.docname)
        if not self.env.temp_data.setdefault("run_folder", False):
            self.env.temp_data["run_folder"] = True
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def output_of(self, command: str | list[str], folder: Path) -> list[str]:
        """Run a command of the shell, or a program, and return what it prints."""
        done = subprocess.run(
            command, shell=isinstance(command, str), cwd=folder, env=environment(),
            timeout=SECONDS, text=True, encoding="utf-8", check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wanted = self.options.get("exit", 0)
        if done.returncode != wanted:
            raise self.error(f"exit code {done.returncode}, not {wanted}: {command}\n{done.stdout}")
        lines = ESCAPES.sub("", done.stdout).rstrip().splitlines()
        most = self.options.get("lines", len(lines))
        cut = ["..."] if most < len(lines) else []
        return [*lines[:most], *cut]


class Python(Run):
    """Show its content, a script, and what it prints."""

    def run(self) -> list[nodes.Node]:
        """Return a block with the script, and one with its output if there is any."""
        script = list(self.content)
        output = self.output_of([sys.executable, "-c", "\n".join(script)], self._folder())
        shown = [self.block(script, "python")]
        return [*shown, self.block(output, "text")] if output else shown


def environment() -> dict[str, str]:
    """Return the environment of a command: this Python first, and a terminal of fixed width."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    faults = str(Path(__file__).parents[2] / "tests" / "faults" / "inject")
    fixed = {"PATH": path, "FAULTS": faults, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ZEMOSAIC_"))}
    return kept | fixed


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("run", Run)
    app.add_directive("python", Python)
    return {"version": "1", "parallel_read_safe": True}
