"""Configuration of the documentation site: `make docs` builds it, any warning is an error."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

project = "pmni"
author = "The pmni contributors"
release = installed_version("pmni")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]  # shell commands in notebooks
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are run by the tests
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
templates_path: list[str] = []
html_theme = "furo"
html_title = "pmni"
html_theme_options = {"navigation_with_keys": True}


def write_settings_reference(_: Sphinx) -> None:
    """Write `settings.md` from the settings' classes, so that it cannot be out of date."""
    from pmni.config.reference import reference

    (DOCS / "settings.md").write_text(reference(), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Generate the pages that come from the code before anything is read."""
    app.connect("builder-inited", write_settings_reference)
