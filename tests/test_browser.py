"""The notebooks as a reader opens them: JupyterLab of `make lab` in a browser, all cells run.

Needs Playwright (`pip install playwright`, without its own browsers) and Chromium or Chrome.
What is run are copies with quick parameters in results/browser/, beside which stands a picture
of each page.
"""

import io
import re
import shutil
from urllib.parse import urlsplit

import nbformat
import numpy as np
import papermill
import pytest
from lab_server import ROOT
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from micse_utils.datasets.texts import load_tweets
from tools.run_notebooks import NOTEBOOKS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
FOLDER = ROOT / "results" / "browser"
QUICK = {
    "source": "package",
    "limit": 1_500,
    "quick": True,
    "transfer_limit": 400,
    "trained_in": "04_low_shot_training/trained",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MINUTE = 60_000  # milliseconds
WIDTH, HEIGHT, TALL = 1400, 1000, 14_000  # of the window; of one that shows a whole notebook
# What a cell's output may not be: an error, a warning, a widget without its kernel.
WRONG = ", ".join(
    f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr")
)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright: .venv/bin/pip install playwright"
    )
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is in the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, lab):
    """A fresh window; at its end no kernel is left, and nothing may have gone wrong on the way."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    complaints, asked = [], set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("request", lambda request: asked.add(urlsplit(request.url)))
    yield page
    page.close()
    for session in lab.client.get("api/sessions").json():
        lab.client.delete(f"api/sessions/{session['id']}").raise_for_status()
    assert complaints == []
    assert {url.hostname for url in asked if url.scheme.startswith(("http", "ws"))} == {"localhost"}


@pytest.fixture(scope="session")
def copies():
    """Every notebook without outputs and with quick parameters, in a folder that git ignores."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name in NAMES:
        path = str(NOTEBOOKS / f"{name}.ipynb")
        known = papermill.inspect_notebook(path)
        quick = {key: value for key, value in QUICK.items() if key in known}
        notebook = parameterize_notebook(load_notebook_node(path), {**quick, "results": name})
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    return FOLDER


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures_of(name, *, folded):
    """Number of figures on a committed page, with or without those that are folded in."""
    cells = code_cells(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))
    shown = [c for c in cells if folded or not c.metadata.get("jupyter", {}).get("outputs_hidden")]
    outputs = [output for cell in shown for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def open_notebook(page, lab, path):
    """Open a notebook and nothing else, and wait until its kernel is ready."""
    page.goto(f"{lab.url}lab/tree/{path}?token={lab.token}&reset")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=MINUTE)
    assert page.locator(".jp-NotebookPanel").count() == 1


def run_all(page):
    """Run all cells by the menu, and wait until none is left running or waiting."""
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
            const texts = prompts.map(prompt => prompt.textContent.trim());
            return texts.some(text => /\\d/.test(text)) && !texts.includes("[*]:");
        }""",
        timeout=10 * MINUTE,
    )
    # Cells that are folded in and out of sight have no prompt; the kernel knows of them.
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=10 * MINUTE)


def save(page, path):
    """Save the notebook, and read what was saved."""
    page.keyboard.press("Control+s")
    page.locator(".lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
    return nbformat.read(path, as_version=4)


def picture(page, path):
    """Take a picture of the whole notebook, from its first cell to its last."""
    page.set_viewport_size({"width": WIDTH, "height": TALL})
    page.locator(".jp-Cell").first.scroll_into_view_if_needed()
    box = page.locator(".jp-Cell").last.bounding_box()
    page.wait_for_timeout(500)  # to draw it
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 20}
    page.screenshot(path=path, clip=clip)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def check_figures(page, count):
    """As many figures are on the page, and none is broken."""
    figures = page.locator(".jp-Notebook img")
    figures.nth(count - 1).wait_for()
    sizes = figures.evaluate_all(
        "all => Promise.all(all.map(i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])))"
    )
    assert len(sizes) == count
    assert np.min(sizes) > 100


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_opens_with_its_figures(lab, page, name):
    open_notebook(page, lab, f"notebooks/{name}.ipynb")
    check_figures(page, figures_of(name, folded=False))
    check_formulas(page)


@pytest.mark.parametrize("name", NAMES)
def test_all_cells_run_in_the_browser(lab, page, copies, name):
    open_notebook(page, lab, f"results/browser/{name}.ipynb")
    run_all(page)
    picture(page, copies / f"{name}.png")

    assert page.locator(WRONG).all_inner_texts() == []
    counts = [cell.execution_count for cell in code_cells(save(page, copies / f"{name}.ipynb"))]
    assert counts == list(range(1, len(counts) + 1))

    check_figures(page, figures_of(name, folded=True))  # a run unfolds them
    check_bars(page, at_least=1 if name == "04_low_shot_training" else 0)
    check_formulas(page)
    if name == "02_tweet_clustering":
        check_map(page, copies / f"{name}_map.png")
    if name == "06_semantic_search":
        check_search_box(page)


SLIDER = """
import ipywidgets

from micse_utils.plotting.interactive import interactive

slider = ipywidgets.SelectionSlider(options=[1, 2, 3], description="level")
interactive(lambda axes, level: axes.axhline(level), slider, [1, 3])
"""


def test_a_slider_that_is_moved_redraws_its_figure(lab, page):
    FOLDER.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(NOTEBOOKS / f"{NAMES[0]}.ipynb", as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(SLIDER)]
    nbformat.write(notebook, FOLDER / "slider.ipynb")
    open_notebook(page, lab, "results/browser/slider.ipynb")
    run_all(page)
    figure = page.locator(".jp-OutputArea .widget-vbox img")
    figure.wait_for()
    before = figure.get_attribute("src")
    page.locator(".noUi-handle").press("ArrowRight")
    page.wait_for_function(
        """before => {
            const figure = document.querySelector(".jp-OutputArea .widget-vbox img");
            return figure && figure.src !== before;
        }""",
        arg=before,
    )


def check_bars(page, *, at_least):
    """Every progress bar is full and green, says so, and is long enough to be seen."""
    boxes = page.locator(".jp-OutputArea .widget-hbox", has=page.locator(".progress-bar"))
    assert boxes.count() >= at_least
    for box in boxes.all():
        bar = box.locator(".progress-bar")
        assert "progress-bar-success" in bar.get_attribute("class")
        assert "width: 100%" in bar.get_attribute("style")
        if "%" in box.inner_text():  # where the total was known
            assert "100%" in box.inner_text()
            assert bar.bounding_box()["width"] > 100, box.inner_text()
    assert page.locator(".jp-OutputArea", has_text="Error displaying widget").count() == 0


def check_formulas(page):
    """Formulas are typeset, and none is wrong."""
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0
    for prose in page.locator(".jp-MarkdownOutput").all_inner_texts():
        assert not re.search(r"\\(frac|log|rho|tfrac|lambda)\b", prose)


def check_map(page, path):
    """The interactive map shows its points; it answers to the pointer and to its legend."""
    frame = page.locator(".jp-OutputArea iframe")
    frame.scroll_into_view_if_needed()
    inside = frame.content_frame
    legend = inside.locator(".bk-label", has_text="negative")
    legend.wait_for()
    assert inside.locator("canvas").count() > 0

    points = colourful(frame)
    row, column = min(np.argwhere(points[:, :700]), key=lambda place: place[1])  # the leftmost
    frame.hover(position={"x": int(column) + 2, "y": int(row)})
    shown = inside.locator(".bk-tooltip-content").inner_text()
    assert shown.split()[0] in ("negative", "neutral", "positive")
    tweets = {" ".join(text.split()) for text in load_tweets(source="package").texts}
    assert any(text in " ".join(shown.split()) for text in tweets)
    frame.screenshot(path=path)

    legend.click()
    page.wait_for_timeout(500)  # to draw it
    assert 0 < colourful(frame).sum() < 0.95 * points.sum()


def check_search_box(page):
    """It holds the question of the page, and answers to another one that is typed in."""
    box = page.locator(".jp-OutputArea .widget-text input")
    box.scroll_into_view_if_needed()
    assert "frogs" in box.input_value()
    hits = page.locator(".jp-OutputArea .widget-vbox td.data.col1")
    before = hits.all_text_contents()
    assert len(before) == 5
    box.fill("presidents of the United States")
    box.press("Enter")
    page.wait_for_function(
        """([selector, old]) => {
            const hits = [...document.querySelectorAll(selector)];
            return hits.length === 5 && hits[0].textContent !== old;
        }""",
        arg=[".jp-OutputArea .widget-vbox td.data.col1", before[0]],
        timeout=MINUTE,
    )
    assert "president" in " ".join(hits.all_inner_texts()).lower()


def colourful(frame):
    """Which pixels have a colour, as points have and neither text nor frame has; [y, x]."""
    pixels = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB")).astype(int)
    return np.ptp(pixels, axis=2) > 60
