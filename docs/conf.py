"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from pydrift.version import __version__

project = "pydrift"
author = "the pydrift authors"
project_copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "generated_pages",
    "mathml",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "html_image"]
myst_heading_anchors = 3
nitpicky = False  # docstrings write types in prose

# The docstrings of pydrift align their arguments in plain text. They are shown as they are written.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Model", "NDArray")}
maximum_signature_line_length = 88

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"pydrift {release}"
html_static_path = ["_static"]
html_css_files = ["pydrift.css"]
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True
