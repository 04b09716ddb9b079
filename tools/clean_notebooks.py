"""Clean executed notebooks: remove progress bars, widgets and memory addresses.

As `python -m tools.clean_notebooks`: put back the committed version of each notebook whose cells
are as committed, so that what JupyterLab changed in it, such as outputs, does not make git dirty.
"""

import html
import re
import subprocess
from pathlib import Path

import nbformat

LARGEST_OUTPUT = 300_000
"""Characters; an output with more (an interactive map) stays in the results, not on the page."""
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT = ("tags", "jupyter", "jp-MarkdownHeadingCollapsed")
"""What a cell's metadata keep: tags, and what is folded in."""
LEFT_OUT = "(left out here because of its size: run the cell to see it)"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\[\d\d:\d\d.*\]$")  # ends in "[00:14<00:00, 281text/s]"


def plain_widgets(notebook: nbformat.NotebookNode) -> None:
    """Replace widgets, which are dead without a kernel, by their current content.

    A progress bar becomes its line, a box to type in what was typed, a table of HTML that table.
    """
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            view = output.get("data", {}).pop(WIDGET_VIEW, None)
            box = widgets.get(view["model_id"], {}).get("state", {}) if view else {}
            children = [widgets[child.split("_")[-1]]["state"] for child in box.get("children", [])]
            values = [c for c in children if isinstance(c.get("value"), str)]
            text = "".join(_labelled(c) for c in values if "<table" not in c["value"])
            if text:
                output.data["text/plain"] = html.unescape(text).replace("\u2007", " ").strip()
            for table in (c["value"] for c in values if "<table" in c["value"]):
                data = {"text/html": table}
                cell.outputs.append(nbformat.v4.new_output("display_data", data))


def _labelled(widget: dict) -> str:
    """Return the text of a widget, after its label if it has one."""
    label = widget.get("description")
    return f"{label}: {widget['value']}" if label else widget["value"]


def clean(notebook: nbformat.NotebookNode, *, largest: float = LARGEST_OUTPUT) -> None:
    """Remove progress bars, times and large maps from an executed notebook.

    Args:
        notebook: changed in place.
        largest: characters of an output that may stay; a longer one becomes a line that says so.
    """
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in _tags(c)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        cell.metadata = {k: cell.metadata[k] for k in KEPT if cell.metadata.get(k)}
    for count, cell in enumerate(code, start=1):
        cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
        for output in cell.outputs:
            if len(output.get("data", {}).get("text/html", "")) > largest:
                output.data = {"text/plain": LEFT_OUT}
            if " at 0x" in output.get("data", {}).get("text/plain", ""):
                del output.data["text/plain"]  # an address in memory; the table is there, too
        for item in (cell, *(o for o in cell.outputs if "execution_count" in o)):
            item.execution_count = count


def _is_bar(output: nbformat.NotebookNode) -> bool:
    """Return whether an output is a progress bar."""
    data = output.get("data", {})
    return list(data) == ["text/plain"] and bool(BAR.search(data["text/plain"]))


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def restore(checkout: Path) -> list[str]:
    """Put back the committed version of notebooks with the same cells; return a line on each."""
    git = ["git", "-C", str(checkout)]
    listed = [*git, "diff", "--name-only", "--relative", "HEAD", "--", "notebooks/*.ipynb"]
    lines = []
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        shown = [*git, "show", f"HEAD:./{name}"]
        committed = subprocess.run(shown, capture_output=True, check=True).stdout.decode("utf-8")
        cells, kept = (
            [(c.cell_type, c.source) for c in nbformat.reads(text, as_version=4).cells]
            for text in ((checkout / name).read_text(encoding="utf-8"), committed)
        )
        if cells == kept:
            (checkout / name).write_text(committed, encoding="utf-8", newline="")
        lines.append(f"{name}: {'as committed' if cells == kept else 'its cells changed, so kept'}")
    return lines


if __name__ == "__main__":
    print(*restore(Path(__file__).parent.parent), sep="\n")
