"""How Sphinx makes the site of the manual from docs/: `make docs`. The pages also read well as they are, on GitHub."""

import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
# The reference is read from the docstrings of this checkout, installed or not.
sys.path.insert(0, str(ROOT))

project = "tfps"
author = "the tfps authors"
copyright = "the tfps authors. Apache License 2.0"
version = release = re.search(r'__version__ = "(.*)"', (ROOT / "tfps/version.py").read_text()).group(1)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["conf.py"]
# GitHub's names of headings, so that a link works there and in the site.
myst_heading_anchors = 4
# Most quotes in the text belong to code, which a reader copies: they stay straight.
smartquotes = False

html_theme = "furo"
html_title = "tfps"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Call arguments", "params_style")]
python_use_unqualified_type_names = True

# Documents outside of docs/ that are pages of the site, and their pages.
_PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "examples/video_recommender/README.md": "film_recommender.md",
}


def _links_of_included(text, folder):
    """A document of another folder, as a page beside the others: its links start from docs/."""

    def moved(match):
        path, anchor = match.groups()
        path = os.path.relpath(ROOT / folder / path, ROOT)
        if (ROOT / path / "README.md").is_file():
            path = f"{path.rstrip('/')}/README.md"
        if path in _PAGES:
            return f"]({_PAGES[path]}{anchor})"
        return f"]({path.removeprefix('docs/') if path.startswith('docs/') else f'../{path}'}{anchor})"

    return re.sub(r"\]\((?![a-z]+://|#)([^)#\s]+)((?:#[^)\s]*)?)\)", moved, text)


def _links_of_page(text):
    """A page whose links to documents outside of docs/ lead to their pages."""
    for name, page in _PAGES.items():
        text = re.sub(rf"\]\(((?:\.\./)*)\.\./{re.escape(name)}(?=[)#])", rf"](\1{page}", text)
    return text


def _plain_text(app, what, name, value, options, lines):
    """Docstrings are plain text with code in single backticks, so what else would be markup is escaped."""
    in_example = False
    for number, line in enumerate(lines):
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if not in_example and not line.startswith("    " if what == "module" else "\0"):
            parts = re.split(r"`+([^`]+)`+", line)
            parts[0::2] = [re.sub(r"(\*|\||_(?!\w))", r"\\\1", part) for part in parts[0::2]]
            parts[1::2] = [f"``{part}``" for part in parts[1::2]]
            lines[number] = "".join(parts)


def setup(app):
    """Called by Sphinx."""
    # Before napoleon, which reads sections from the lines.
    app.connect("autodoc-process-docstring", _plain_text, priority=100)
    app.connect("include-read", _include)
    app.connect("source-read", lambda _, name, content: _change(content, _links_of_page))


def _include(_, path, name, content):
    folder = (ROOT / "docs" / path).resolve().parent
    _change(content, lambda text: _links_of_included(text, folder))


def _change(content, function):
    content[0] = function(content[0])
