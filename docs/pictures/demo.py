"""Draws docs/pictures/demo.svg, which the README shows: runs `make demo` in a terminal and draws what it printed.

.venv/bin/python docs/pictures/demo.py [arguments of make]
"""

import io
import os
import pathlib
import pty
import sys

from rich.console import Console
from rich.text import Text

ROOT = pathlib.Path(__file__).parents[2]
WIDTH = 120  # columns


def main() -> None:
    """Runs the demo, and draws it if it succeeds."""
    chunks = []

    def read(terminal: int) -> bytes:
        chunks.append(os.read(terminal, 4096))
        return chunks[-1]

    os.chdir(ROOT)
    os.environ["COLUMNS"] = str(WIDTH)
    if pty.spawn(["make", "--silent", *sys.argv[1:], "demo"], read):
        sys.exit("make demo failed.")
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print("$ make demo")
    # A progress bar returns to the start of its line; what it wrote last stays on the screen.
    console.print(Text.from_ansi(b"".join(chunks).decode().replace("\r\n", "\n")))
    console.save_svg("docs/pictures/demo.svg", title="make demo")


if __name__ == "__main__":
    main()
