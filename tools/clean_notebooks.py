"""Clean executed notebooks: remove progress bars, widgets and memory addresses.

As `python -m tools.clean_notebooks`: put back the committed version of each notebook whose cells
are as committed, so that what JupyterLab changed in it, such as outputs, does not make git dirty.
"""

import subprocess
from functools import partial
from pathlib import Path

import nbformat

LARGEST_OUTPUT = 300_000
"""Characters; an output with more (an interactive map) stays in the results, not on the page."""
LEFT_OUT = "(left out here because of its size: run the cell to see it)"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT = ("tags", "jupyter", "jp-MarkdownHeadingCollapsed")  # of a cell: tags, and what is folded in
WIDGET = "application/vnd.jupyter.widget-{}+json"


def plain_widgets(notebook: nbformat.NotebookNode) -> None:
    """Replace columns of widgets, which are dead without a kernel, by the text and tables in them.

    Other widgets are progress bars: these are removed.
    """
    states = notebook.metadata.pop("widgets", {}).get(WIDGET.format("state"), {}).get("state", {})
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            if view := output.get("data", {}).pop(WIDGET.format("view"), None):
                cell.outputs.remove(output)
                box = states.get(view["model_id"], {})
                column = box["state"]["children"] if box.get("model_name") == "VBoxModel" else []
                for widget in (states[each.removeprefix("IPY_MODEL_")] for each in column):
                    if text := str(widget["state"].get("value", "")):
                        plain = {"text/plain": f"{widget['state']['description']}: {text}"}
                        data = {"text/html": text} if widget["model_name"] == "HTMLModel" else plain
                        cell.outputs.append(nbformat.v4.new_output("display_data", data))


def clean(notebook: nbformat.NotebookNode, *, largest: float = LARGEST_OUTPUT) -> None:
    """Remove given parameters, times, and outputs larger than `largest` characters, in place."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    given = "injected-parameters"
    notebook.cells = [c for c in notebook.cells if given not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata = {k: cell.metadata[k] for k in KEPT if cell.metadata.get(k)}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        for output in cell.outputs:
            if len(output.get("data", {}).get("text/html", "")) > largest:
                output.data = {"text/plain": LEFT_OUT}
            if " at 0x" in output.get("data", {}).get("text/plain", ""):
                del output.data["text/plain"]  # an address in memory; the table is there, too
        for item in (cell, *(o for o in cell.outputs if "execution_count" in o)):
            item.execution_count = count


def restore(checkout: Path) -> list[str]:
    """Put back the committed version of notebooks with the same cells; return a line on each."""
    git = partial(subprocess.run, cwd=checkout, capture_output=True, encoding="utf-8")
    listed = git(["git", "diff", "--name-only", "--relative", "HEAD", "--", "notebooks/*.ipynb"])
    lines = [listed.stderr.split("\n")[0]] if listed.returncode else []  # not a git checkout
    for name in listed.stdout.split():
        committed = git(["git", "show", f"HEAD:./{name}"]).stdout
        cells, kept = (
            [(c.cell_type, c.source) for c in nbformat.reads(text, as_version=4).cells]
            for text in ((checkout / name).read_text(encoding="utf-8"), committed)
        )
        if cells == kept:
            git(["git", "checkout", "HEAD", "--", name])
        lines.append(f"{name}: {'as committed' if cells == kept else 'its cells changed, so kept'}")
    return lines


if __name__ == "__main__":
    print(*restore(Path(__file__).parent.parent), sep="\n")
