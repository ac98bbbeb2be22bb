"""The source distribution has every file of the repository: it can be built, linted and tested as a checkout can."""

import pathlib
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GENERATED = {"PKG-INFO", "setup.cfg"}  # setuptools adds these


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout; this is a source distribution")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]  # a file that is about to be added, too
    return set(subprocess.check_output(command, cwd=ROOT, text=True).splitlines())


def test_the_source_distribution_has_every_file_of_the_repository(tmp_path):
    expected = {name for name in tracked() if (ROOT / name).exists()}  # one may be deleted and not yet committed
    # An egg-info directory of this test's own: an older one would add files that it remembers.
    command = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path / "dist")]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as files:
        names = {member.name.partition("/")[2] for member in files if member.isfile()}
    packed = {name for name in names if ".egg-info/" not in name} - GENERATED
    assert packed - expected == set(), "files that are not of the repository"
    assert expected - packed == set(), "files that MANIFEST.in leaves out"
