"""Executed notebooks as they are committed and shown."""

import nbformat

from tools.clean_notebooks import clean, plain_widgets


def test_progress_bars_become_text_and_leave_the_committed_page():
    """A widget as tqdm leaves it: a box of a label, a bar and a count."""
    state = {
        "box": {"state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_c"]}},
        "a": {"state": {"value": "encode:\u2007100%"}},
        "b": {"state": {"value": 3}},
        "c": {"state": {"value": "\u20073/3 [00:01&lt;00:00, 2text/s]"}},
    }
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "3%|"}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", view)])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    plain_widgets(notebook)
    text = {"text/plain": "encode: 100% 3/3 [00:01<00:00, 2text/s]"}
    assert notebook.cells[0].outputs[0].data == text
    clean(notebook)
    assert notebook.cells[0].outputs == []
    assert notebook.cells[0].execution_count == 1


def test_an_input_box_becomes_its_text_and_the_table_that_it_shows():
    table = "<table><tr><td>ants &amp; bees</td></tr></table>"
    state = {
        "box": {"state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b"]}},
        "a": {"state": {"value": "who?", "description": "Search"}},
        "b": {"state": {"value": table, "description": ""}},
    }
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "VBox()"}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", view)])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    plain_widgets(notebook)
    clean(notebook)
    nbformat.validate(notebook)
    typed, answered = notebook.cells[0].outputs
    assert typed.data == {"text/plain": "Search: who?"}
    assert answered.data == {"text/html": table}
