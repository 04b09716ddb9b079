"""Write the notebooks as web pages that need no network: `python -m tools.pages --help`.

nbconvert makes a page of each notebook, in a frame of ours: its own frames load scripts from the
network. Formulas are MathML, so no script has to set them.
"""

import argparse
import base64
import hashlib
import html
import io
import math
import re
import sys
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments.formatters import HtmlFormatter

from micse_utils.job import job
from micse_utils.plotting.interactive import FRAMES
from micse_utils.results import write_text
from micse_utils.settings import expanded, shown
from tools.clean_notebooks import clean
from tools.run_notebooks import NOTEBOOKS, ROOT, expected_time, read

STYLES = ("xcode", "monokai")  # of code, on light and on dark screens
STYLE, FRAME = (Path(__file__).with_suffix(suffix) for suffix in (".css", ".html.j2"))
ABOUT = """# miCSE kit

Six notebooks on **miCSE** sentence embeddings (Klein & Nabi, ACL 2023), with their outputs, to
read in any browser without a network. They go from two sentences and their similarity to a map of
tweets, training from a handful of sentences, scores with their uncertainty, and fast search."""


def main(arguments: list[str] | None = None) -> int:
    """Write the pages that the command line asks for; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m tools.pages", description=__doc__)
    parser.add_argument("folder", nargs="?", type=expanded, help="default: html/ in the results")
    parser.add_argument("--results", type=expanded, default=ROOT / "results", help="results folder")
    options = parser.parse_args(arguments)
    folder = options.folder or options.results / "html"
    try:
        with job(folder, {"pages": "of the notebooks"}):
            runs = write_site(folder, options.results)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"run here: {', '.join(runs) or 'none'}; any other page is as committed")
    print(f"open {folder / 'index.html'}")
    return 0


def write_site(folder: Path, results: Path) -> list[str]:
    """Write the index, a page for each notebook, and the notes for teachers.

    A notebook's last run in `results` goes before the committed one, if its cells are the same.
    Return the names of the notebooks whose run was taken.

    Raises:
        ValueError: a notebook is damaged, or a formula is not TeX that `formula` knows.
    """
    notebooks, runs = {}, []
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        name, run = path.stem, results / path.stem / path.name
        notebooks[name] = cleaned(path)
        if run.is_file() and sources(ran := cleaned(run)) == sources(notebooks[name]):
            notebooks[name] = ran
            runs.append(name)
    index = [ABOUT, *(entry(name, notebook) for name, notebook in notebooks.items())]
    index.append("[For teachers](TEACHING.html): plans for 90 minutes and half a day.")

    teaching = (NOTEBOOKS / "TEACHING.md").read_text(encoding="utf-8")
    pages = {"index": "miCSE kit", **{name: title(n) for name, n in notebooks.items()}}
    pages["TEACHING"] = "For teachers"
    for name, text in (("index", "\n\n".join(index)), ("TEACHING", teaching)):
        cells = [nbformat.v4.new_markdown_cell(text)]
        notebooks[name] = nbformat.v4.new_notebook(cells=cells)
    filters = {"markdown2html": markdown_to_html}
    frame = FRAME.read_text(encoding="utf-8")
    exporter = HTMLExporter(raw_template=frame, template_name="basic", filters=filters)
    for name, notebook in notebooks.items():
        resources = {"title": pages[name], "pages": pages}
        page, _ = exporter.from_notebook_node(notebook, resources)
        write_text(folder / f"{name}.html", page)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in STYLES)
    colours = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    write_text(folder / "style.css", colours + STYLE.read_text(encoding="utf-8"))
    return runs


def cleaned(path: Path) -> nbformat.NotebookNode:
    """Return an executed notebook as a page: with maps, without bars and paths."""
    try:
        notebook = read(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged; make run rebuilds it") from error
    heading = ""
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"""(?m)^\w+ = ["'](/|\w:\\).*\n?""", "", cell.source).strip()
            if "=" in cell.source:  # what was set from outside decides the figures
                cell.metadata.tags = ["given"]
        if cell.cell_type == "markdown":
            heading = (re.findall(r"(?m)^#+ (.*)", cell.source) or [heading])[-1]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FRAMES in data:
                frames = [(value, smaller(png)[0]) for value, png in data[FRAMES]["frames"]]
                output.data = {"text/html": choice(data[FRAMES]["control"], frames)}
            elif "image/png" in data:
                data["image/png"], (width, height) = smaller(data["image/png"])
                alt = f"Figure of the section: {heading}"
                output.metadata["image/png"] = {"alt": alt, "unconfined": width > 2 * height}
    clean(notebook, largest=math.inf)
    return notebook


def smaller(png: str) -> tuple[str, tuple[int, int]]:
    """Return a PNG in base64 with 256 colours, a third of its bytes, and its width and height."""
    image, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode(), image.size


def choice(control: str, frames: list[tuple[str, str]]) -> str:
    """Return a figure that moves without a script: buttons, each of which shows a frame.

    `frames`: each value of the control and its PNG in base64.
    """
    group, parts = hashlib.sha256(repr(frames).encode()).hexdigest()[:8], []
    for number, (value, png) in enumerate(frames):
        key, name = f"{group}-{number}", html.escape(f"{control} {value}")
        parts.append(
            f'<input type="radio" name="{group}" id="{key}" {"" if number else "checked"}>'
            f'<label for="{key}">{html.escape(value)}</label>'
            f'<img alt="{name}" src="data:image/png;base64,{png}">'
        )
    legend = f"<legend>{html.escape(control)}</legend>"
    return f'<fieldset class="frames">{legend}{"".join(parts)}</fieldset>'


def sources(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the cells as written, without parameters set from outside."""
    return [c.source for c in notebook.cells if c.metadata.get("tags") != ["given"]]


def title(notebook: nbformat.NotebookNode) -> str:
    """Return the first heading."""
    return re.search(r"(?m)^# (.*)", notebook.cells[0].source)[1]


def entry(name: str, notebook: nbformat.NotebookNode) -> str:
    """Return an index entry: title, question, minutes, first figure, headline."""
    opening = notebook.cells[0].source
    question = re.search(r"(?:^|(?<=[.?!] ))[^.?!\n]*\?", opening, re.MULTILINE)[0]
    [last] = [c for c in notebook.cells if c.source.rstrip().endswith("print(headline)")]
    headline = html.escape(" ".join(last.outputs[-1].text.split()))
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    figure = next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    return (
        f"## [{title(notebook)}]({name}.html)\n\n{question} *({expected_time(notebook)})*\n\n"
        # No Markdown: a headline is what a page printed, and may hold anything.
        f'<p><a href="{name}.html"><img alt="{headline}" src="data:image/png;base64,{figure}"></a>'
        f"</p><p>{headline}</p>"
    )


def markdown_to_html(source: str) -> str:
    """Convert Markdown to HTML, with MathML and links among the pages."""
    return MarkdownWithMath(Renderer(escape=False, exclude_anchor_links=True)).render(source)


class Renderer(IPythonRenderer):
    """Turn links to notebooks into links to their pages, and other files into plain text."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Render a link to a page of the site or of the web."""
        url = re.sub(r"\.(ipynb|md)$", ".html", url)
        inside = "/" not in url or url.startswith("http")
        return super().link(text, url, title) if inside else text

    def inline_math(self, body: str) -> str:
        """Render a formula in a line."""
        return formula(body)

    def block_math(self, body: str) -> str:
        """Render a formula on a line of its own."""
        return formula(body.strip(), display="block")


def formula(tex: str, display: str = "inline") -> str:
    """Return a formula in TeX as MathML, which browsers set without a script.

    Raises:
        ValueError: `tex` is incomplete, or has a command that latex2mathml does not know.
    """
    try:
        mathml = convert(tex, display=display)
    except Exception as error:  # the library's errors have no type in common
        raise ValueError(f"cannot read the formula {shown(tex)}") from error
    if unknown := re.search(r"\\\w*", mathml):
        raise ValueError(f"the formula {shown(tex)} has an unknown command, {unknown[0]}")
    return mathml


if __name__ == "__main__":
    sys.exit(main())
