"""Compiles the C++ ops; everything else about the package is in pyproject.toml.

The ops become one shared library, tfps/ops/_tfps_ops_2_21.so, whose name tells the TensorFlow that it was compiled
against. Wheels for several versions of TensorFlow differ in this file alone, so `make wheel` can join them to one.
`TFPS_BUILD_OPS=0 pip install .` leaves the ops out: tfps then runs on TensorFlow's own ops.
"""

import concurrent.futures
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).parent
OPS = Path("tfps/ops")
LIBRARIES = "_tfps_ops_*.so"
# -ffp-contract=off: every CPU target computes the same bits. -fno-math-errno: a square root is one instruction.
CXX_FLAGS = ["-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-Wall"]

FEW = 4
"""So many files include TensorFlow's headers before compiling these by themselves pays off."""


def library_name(tensorflow: str) -> str:
    """The file name of the library for a version of TensorFlow, as tfps/ops/library.py reads it: _tfps_ops_2_21.so."""
    return f"_tfps_ops_{'_'.join(tensorflow.split('.')[:2])}.so"


def library_sources() -> list[Path]:
    """Every source of the library; tests and benchmarks of the core live beside it and stay out."""
    sources = sorted((ROOT / "tfps_ops").glob("*/**/*.cc"))
    return [s.relative_to(ROOT) for s in sources if not s.stem.endswith(("_test", "_benchmark"))]


def remove_libraries(folder: Path) -> None:
    """Removes what earlier builds left in a folder: of another TensorFlow, it may be of other sources, too."""
    for path in folder.glob(LIBRARIES):
        path.unlink()


def tensorflow_flags() -> dict[str, object]:
    """The installed TensorFlow's version and the flags that compile and link against it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise SetupError(
            "The C++ ops of tfps are compiled against an installed TensorFlow, and none can be imported "
            f"({error}): install tensorflow first, or set TFPS_BUILD_OPS=0 to install without the ops."
        ) from error
    return {
        "version": tf.__version__,
        "compile": tf.sysconfig.get_compile_flags(),
        "link": tf.sysconfig.get_link_flags(),
    }


def compiler() -> list[str]:
    """The C++ compiler's command: the environment variable CXX, or g++."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(command[0]) is None:
        raise SetupError(
            f"The C++ ops of tfps need a C++17 compiler, and {command[0]!r} is not on the PATH: install g++, "
            "name another in CXX, or set TFPS_BUILD_OPS=0 to install without the ops."
        )
    return command


def run(command: list[str]) -> None:
    """Runs one compiler command; its own messages are what the user needs when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"Compiling the C++ ops of tfps failed: {shlex.join(command)}\n{done.stderr}")


def shown(done: Iterator[concurrent.futures.Future[None]], total: int) -> Iterable[concurrent.futures.Future[None]]:
    """Draws a progress bar on a terminal; pip shows one with -v alone. TFPS_PROGRESS=0 draws none."""
    if not sys.stderr.isatty() or os.environ.get("TFPS_PROGRESS") == "0":
        return done
    try:
        from rich.console import Console
        from rich.progress import track
    # TensorFlow needs Keras, and Keras needs rich; older ones did not.
    except ImportError:
        return done
    return track(done, "compiling the C++ ops", total, console=Console(stderr=True), transient=True)


def precompile(base: list[str], folder: Path) -> list[str]:
    """Compiles TensorFlow's headers for all files that include them, and returns the flags that use them.

    The result has 400 MB. Where it cannot be made there are no flags, and each file compiles the headers for itself.
    """
    header = folder / "tensorflow_headers.h"
    names = ("op.h", "op_kernel.h", "shape_inference.h")
    header.write_text("".join(f"#include <tensorflow/core/framework/{name}>\n" for name in names))
    try:
        run([*base, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
    except SetupError:
        return []
    return ["-include", str(header)]


class BuildOps(build_ext):
    """Compiles tfps_ops, as many files at a time as there are cores, and links them into one library."""

    def get_ext_filename(self, fullname: str) -> str:
        """A plain .so: it is loaded by TensorFlow and knows nothing of the Python version."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: setuptools.Extension) -> None:
        """Compiles the files, then links them."""
        command, flags = compiler(), tensorflow_flags()
        # Objects of one TensorFlow are useless to the next, so each version has a directory.
        objects = ROOT.absolute() / "build" / "ops" / f"tensorflow-{flags['version']}"
        objects.mkdir(parents=True, exist_ok=True)
        base = [*command, *CXX_FLAGS, "-I.", *flags["compile"]]
        compiled = self._compile_all(base, [Path(source) for source in ext.sources], objects)
        # setuptools asks for the name before it is known which TensorFlow there is, so it gets one without a version.
        folder = Path(self.get_ext_fullpath(ext.name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        remove_libraries(folder)
        library = folder.absolute() / library_name(flags["version"])
        run([*command, "-shared", "-o", str(library), *map(str, compiled), *flags["link"]])

    def _compile_all(self, base: list[str], sources: list[Path], objects: Path) -> list[Path]:
        """Compiles what is newer than its object, and returns all objects."""
        headers = [*ROOT.glob("tfps_ops/**/*.h"), *ROOT.glob("tfps_ops/**/*.inc")]
        newest = max(path.stat().st_mtime for path in [ROOT / "setup.py", *headers])
        targets = [objects / ("_".join(source.with_suffix(".o").parts)) for source in sources]
        old = [
            (source, target)
            for source, target in zip(sources, targets, strict=True)
            if self.force
            or not target.exists()
            or target.stat().st_mtime < max(newest, (ROOT / source).stat().st_mtime)
        ]
        # TensorFlow's headers take most of the time of a file that includes them.
        large = {source for source, _ in old if '#include "tensorflow/' in (ROOT / source).read_text()}
        # Beside the objects: /tmp may be a small file system in memory.
        folder = tempfile.TemporaryDirectory(dir=objects)
        with folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            first = pool.submit(precompile, base, Path(folder.name)) if len(large) > FEW else None

            def compile_one(source: Path, target: Path) -> None:
                include = first.result() if first is not None and source in large else []
                run([*base, *include, "-c", str(source), "-o", str(target)])

            # The others come first, while the headers are compiled.
            old.sort(key=lambda pair: pair[0] in large)
            done = concurrent.futures.as_completed([pool.submit(compile_one, *pair) for pair in old])
            for one in shown(done, len(old)):
                one.result()
        return targets

    def copy_extensions_to_source(self) -> None:
        """For an editable install: the library goes into the source tree."""
        remove_libraries(ROOT / OPS)
        for library in (Path(self.build_lib) / OPS).glob(LIBRARIES):
            self.copy_file(str(library), str(ROOT / OPS / library.name))


class Wheel(bdist_wheel):
    """A wheel for every Python 3: TensorFlow loads the ops, so they do not depend on the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag of a wheel without ops is py3-none-any, with them py3-none-linux_x86_64."""
        return "py3", "none", super().get_tag()[2]


WITH_OPS = os.environ.get("TFPS_BUILD_OPS", "1") != "0"
setuptools.setup(
    ext_modules=[setuptools.Extension("tfps.ops._tfps_ops", [str(s) for s in library_sources()])] if WITH_OPS else [],
    cmdclass={"build_ext": BuildOps, "bdist_wheel": Wheel},
)
