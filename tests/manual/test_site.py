"""The site of the manual builds without a warning, has every public name, and no link within it is dead."""

import html
import pathlib
import re
import runpy
import subprocess
import sys
import urllib.parse

import pytest

from tests.test_public_api import NAMES

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, as `make docs` builds it."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason=f"the site needs {package}: pip install .[docs]")
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", folder / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, ROOT / "docs", folder / "html"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        found = {name for names in InventoryFile.load(file, "", lambda base, uri: uri).values() for name in names}
    # Two names of one class: Sphinx has it once.
    wanted = {f"{module}.{name}" for module, name in NAMES} - {"tfps.Hardware"}
    assert wanted - found == set()


def test_links_within_the_site_lead_somewhere(site):
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    dead = []
    for page, text in pages.items():
        for link in re.findall(r'\bhref="([^"]+)"', text):
            path, _, anchor = urllib.parse.unquote(html.unescape(link)).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.is_file() or (anchor and anchor not in anchors.get(target, {anchor})):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert len(pages) > 30 and dead == []


def test_every_page_is_in_the_navigation(site):
    navigation = re.search(r'<div class="sidebar-tree">(.*?)</div>', (site / "index.html").read_text(), re.DOTALL)
    linked = {link.partition("#")[0] for link in re.findall(r'href="([^"]+)"', navigation.group(1))}
    pages = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages - linked - {"index.html"} == set()


def test_the_pictures_are_those_of_the_script():
    pictures = runpy.run_path(str(ROOT / "docs/pictures/draw.py"))["PICTURES"]
    files = {name: (ROOT / f"docs/pictures/{name}.svg").read_text() for name in pictures}
    assert files == {name: draw().svg() for name, draw in pictures.items()}
