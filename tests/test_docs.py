"""The pages of the documentation: their examples in Python, and their links to files."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from zemosaic import __version__

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not {"_runs", "generated"} & set(path.parts)
)
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def example(page: Path) -> str:
    """Return the interactive examples of a page, in order."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return "\n".join(block for block in blocks if block.startswith(">>> "))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if example(page)], ids=lambda page: page.stem
)
def test_examples_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interactive examples in Python print what the page shows."""
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(example(page), {}, page.name, str(page), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(test, out=report.append)
    assert not result.failed, "".join(report)
    assert result.attempted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    """A link to a file of the repository leads to one, except to pictures made with the site."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link and "_runs/" not in link]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing, f"{page.name}: {', '.join(missing)}"


def test_the_life_of_a_pair_names_what_exists() -> None:
    """Each dotted name on the way of a pair through the package leads to a module or a member."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The life of a pair")[2].partition("\n## ")[0]
    rooms = "cli|observe|photometry|pipeline|report|runtime"
    names = re.findall(rf"`((?:{rooms})(?:\.\w+)+)`", section)
    assert len(names) > 15
    for name in names:
        try:
            resolve_name(f"zemosaic.{name}")
        except (AttributeError, ModuleNotFoundError) as error:
            pytest.fail(f"{name}: {error}")


def test_each_version_has_one_section_of_each_kind() -> None:
    """The changelog has no second list of additions in a version, and dates all but the newest."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, unreleased, *released = re.split(r"^## ", changelog, flags=re.MULTILINE)
    assert unreleased.startswith("[Unreleased]\n")
    for text in released:
        assert re.match(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d\n", text)
    for text in (unreleased, *released):
        kinds = re.findall(r"^### (.*)", text, re.MULTILINE)
        assert len(kinds) == len(set(kinds)), kinds


@pytest.mark.parametrize(("tag", "code"), [(f"v{__version__}", 0), ("v0.0.0", 1)])
def test_the_notes_of_a_release_are_its_section(tag: str, code: int) -> None:
    """A tag that is not the version of the package, or has no section, ends the release."""
    script = ROOT / ".ci" / "release_notes.py"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", script, tag], capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert ("### Added" in done.stdout) is (code == 0)
