"""Executed notebooks as they are committed and shown."""

import subprocess

import nbformat

from tools.clean_notebooks import clean, plain_widgets, restore


def with_widgets(state, view):
    """A notebook of one cell that showed a widget."""
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": view}, "text/plain": "VBox()"}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", view)])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    return notebook


def test_progress_bars_leave_the_page():
    """A widget as tqdm leaves it: a row of a label, a bar and a count."""
    state = {
        "box": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b"]}},
        "a": {"model_name": "HTMLModel", "state": {"value": "encode:\u2007100%"}},
        "b": {"model_name": "FloatProgressModel", "state": {"value": 3}},
    }
    notebook = with_widgets(state, "box")
    plain_widgets(notebook)
    assert notebook.cells[0].outputs == [] and "widgets" not in notebook.metadata
    clean(notebook)
    assert notebook.cells[0].execution_count == 1


def test_an_input_box_becomes_its_text_and_the_table_that_it_shows():
    table = "<table><tr><td>ants &amp; bees</td></tr></table>"
    children = ["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_c"]
    state = {
        "box": {"model_name": "VBoxModel", "state": {"children": children}},
        "a": {"model_name": "TextModel", "state": {"value": "who?", "description": "Search"}},
        "b": {"model_name": "HTMLModel", "state": {"value": table, "description": ""}},
        "c": {"model_name": "OutputModel", "state": {"outputs": []}},
    }
    notebook = with_widgets(state, "box")
    plain_widgets(notebook)
    clean(notebook)
    nbformat.validate(notebook)
    typed, answered = notebook.cells[0].outputs
    assert typed.data == {"text/plain": "Search: who?"}
    assert answered.data == {"text/html": table}


def test_a_notebook_that_was_only_opened_is_as_committed_again_and_an_edited_one_is_kept(tmp_path):
    (tmp_path / "notebooks").mkdir()
    pages = [tmp_path / "notebooks" / f"0{number}.ipynb" for number in (1, 2)]
    for page in pages:
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")]), page)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *command], check=True)
    committed = pages[0].read_bytes()
    for page in pages:
        notebook = nbformat.read(page, as_version=4)
        notebook.metadata["language_info"] = {"name": "python", "version": "3.99"}
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]
        notebook.cells[0].source = "x" if page == pages[0] else "y"
        nbformat.write(notebook, page)
    edited = pages[1].read_bytes()
    assert restore(tmp_path) == [
        "notebooks/01.ipynb: as committed",
        "notebooks/02.ipynb: its cells changed, so kept",
    ]
    assert (pages[0].read_bytes(), pages[1].read_bytes()) == (committed, edited)


def test_a_table_typed_into_an_input_box_stays_text():
    typed = "<table><script>alert(1)</script>"
    box = {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_a"]}}
    text = {"model_name": "TextModel", "state": {"value": typed, "description": "Search"}}
    notebook = with_widgets({"box": box, "a": text}, "box")
    plain_widgets(notebook)
    assert notebook.cells[0].outputs[0].data == {"text/plain": f"Search: {typed}"}
