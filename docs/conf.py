"""Configuration of the documentation site: sphinx-build -W docs build/site."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from zemosaic import __version__

project = "Zemosaic"
author = "The Zemosaic developers"
copyright = f"{datetime.now(UTC):%Y}, {author}"
release = version = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "run_commands",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "matplotlib.sphinxext.plot_directive",
]
root_doc = "index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_runs", "_plots"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 4

autosummary_generate = True
autodoc_typehints = "none"
autodoc_class_signature = "separated"
numpydoc_show_class_members = False
templates_path = ["_templates"]

plot_basedir = "."
plot_formats = [("png", 110)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_rcparams = {"figure.constrained_layout.use": True, "font.size": 10, "savefig.bbox": "tight"}
plot_apply_rcparams = True

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "pydata_sphinx_theme"
html_title = "Zemosaic"
html_theme_options = {
    "header_links_before_dropdown": 7,
    "show_nav_level": 1,
    "show_toc_level": 2,
    "use_edit_page_button": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
# Pages without others below them have no list of a section.
alone = ["start", "tutorial", "faults", "about/compared"]
html_sidebars: dict[str, list[str]] = {page: [] for page in alone}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
