"""Draws the pictures of docs/concepts.md: `python docs/pictures/draw.py` writes the SVG files beside it.

Each picture has a light background of its own, so it is legible in a light and in a dark page.
"""

import html
import pathlib

INK, LINE, CARD = "#1e293b", "#475569", "#f8fafc"
CHIEF, WORKER, SERVER, PLAIN = "#fde68a", "#bfdbfe", "#bbf7d0", "#e2e8f0"


class Picture:
    """The elements of an SVG of a width and a height."""

    def __init__(self, width, height, title):
        """Begins with the background."""
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="14" fill="{INK}" role="img">'
        )
        self.parts = [
            f"<title>{html.escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="10" fill="{CARD}"/>',
        ]

    def text(self, x, y, text, anchor="start", size=14, weight="normal"):
        """A line of text; y is that of its foot."""
        style = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
        self.parts.append(f"<text {style}>{html.escape(text)}</text>")

    def box(self, x, y, width, height, lines, fill):
        """A box with lines of text in its middle; the first is bold."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{LINE}"/>'
        )
        for number, line in enumerate(lines):
            foot = y + height / 2 + 5 + 18 * (number - (len(lines) - 1) / 2)
            self.text(x + width / 2, foot, line, "middle", weight="normal" if number else "bold")

    def arrow(self, x1, y1, x2, y2, dashed=False):
        """A line with a tip at its end."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="M{x1} {y1} {x2} {y2}" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"{dash}/>'
        )

    def svg(self):
        """The file."""
        return "\n".join([self.head, *self.parts, "</svg>", ""])


def step():
    """The path of an asynchronous step, from top to bottom in time."""
    picture = Picture(760, 500, "The path of a step: a worker asks two servers for rows and pushes gradients to them")
    for x, name, fill in ((30, "server 0", SERVER), (300, "worker", WORKER), (570, "server 1", SERVER)):
        picture.box(x, 20, 160, 34, [name], fill)
    for x in (110, 650):
        picture.parts.append(f'<path d="M{x} 54 {x} 480" stroke="{LINE}" stroke-dasharray="2 4"/>')
    picture.box(270, 72, 220, 52, ["1  batch", "read it, find its unique ids"], PLAIN)
    picture.arrow(270, 146, 116, 170)
    picture.arrow(490, 146, 644, 170)
    picture.text(380, 150, "2  one request to each server", "middle")
    picture.box(40, 176, 140, 34, ["gather rows"], SERVER)
    picture.box(580, 176, 140, 34, ["gather rows"], SERVER)
    picture.arrow(184, 194, 268, 226)
    picture.arrow(576, 194, 492, 226)
    picture.box(270, 204, 220, 70, ["3  compute", "forward and backward;", "sum gradients by id"], PLAIN)
    picture.arrow(270, 296, 116, 322)
    picture.arrow(490, 296, 644, 322)
    picture.text(380, 302, "4  gradients to each server", "middle")
    for x in (30, 570):
        picture.box(x, 328, 160, 52, ["optimizer", "rows and their slots"], SERVER)
    picture.box(270, 334, 220, 40, ["next step, at once"], PLAIN)
    picture.box(270, 406, 220, 70, ["every few steps", "push the change of kernels,", "pull their values"], WORKER)
    picture.arrow(270, 428, 116, 428)
    picture.arrow(116, 452, 264, 452)
    picture.arrow(490, 428, 644, 428)
    picture.arrow(644, 452, 496, 452)
    return picture


def window():
    """Asynchronous steps and a window of GEO, beside one another."""
    picture = Picture(
        760, 330, "Asynchronous: an exchange in every step. GEO: one pull and one push for a window of steps"
    )
    for top, name, fill in ((20, "servers", SERVER), (130, "asynchronous", WORKER), (250, "GEO", WORKER)):
        picture.box(20, top, 120, 44, [name], fill)
    picture.parts.append(f'<path d="M140 42 740 42" stroke="{LINE}" stroke-width="1.5"/>')
    for number in range(6):
        x = 160 + 97 * number
        picture.box(x, 130, 70, 44, [f"step {number + 1}"], PLAIN)
        picture.arrow(x + 16, 44, x + 16, 126)
        picture.arrow(x + 54, 130, x + 54, 48)
    picture.text(438, 194, "rows down, gradients up, in every step", "middle", 13)
    picture.box(160, 240, 555, 64, [], WORKER)
    for number in range(6):
        picture.box(172 + 91 * number, 250, 78, 44, [f"step {number + 1}"], PLAIN)
    picture.arrow(155, 44, 155, 244, dashed=True)
    picture.arrow(722, 300, 722, 48, dashed=True)
    picture.text(176, 226, "pull: the rows of all six batches", size=13)
    picture.text(700, 226, "push: how far these rows have moved", "end", 13)
    picture.text(438, 322, "one window, on the worker's own copy of the rows", "middle", 13)
    return picture


def placement():
    """Where the variables of a model live."""
    picture = Picture(
        760, 380, "A table is split by rows over the servers; dense variables are whole, on one server each"
    )
    picture.text(20, 34, "the model", weight="bold")
    picture.box(20, 48, 150, 160, ["table", "1,000,000 x 16", "with its slots"], PLAIN)
    picture.box(20, 226, 150, 40, ["kernel"], PLAIN)
    picture.box(20, 276, 150, 40, ["bias"], PLAIN)
    for number, y in enumerate((30, 200)):
        picture.box(330, y, 220, 146, [], SERVER)
        picture.text(440, y + 24, f"server {number}", "middle", weight="bold")
        picture.box(345, y + 36, 190, 48, ["half of the rows", "with their slots"], PLAIN)
        picture.box(345, y + 92, 190, 40, ["kernel" if number == 0 else "bias"], PLAIN)
    picture.arrow(170, 90, 341, 90)
    picture.arrow(170, 160, 341, 256)
    picture.arrow(170, 244, 341, 146)
    picture.arrow(170, 298, 341, 314)
    picture.box(620, 60, 120, 60, ["worker 0", "steps"], WORKER)
    picture.box(620, 156, 120, 60, ["worker 1", "steps"], WORKER)
    picture.box(620, 252, 120, 60, ["chief", "your program"], CHIEF)
    for y in (90, 186):
        picture.arrow(620, y, 554, 100 if y == 90 else 150)
        picture.arrow(620, y + 8, 554, 230 if y == 90 else 270)
    picture.arrow(700, 252, 700, 220, dashed=True)
    note = (
        "A hash of the id says which server has its row. The chief sends work to workers and holds no part of a table."
    )
    picture.text(20, 366, note, size=13)
    return picture


PICTURES = {"step": step, "window": window, "placement": placement}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        pathlib.Path(__file__).with_name(f"{name}.svg").write_text(draw().svg())
