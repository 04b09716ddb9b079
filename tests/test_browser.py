"""The notebooks as a reader opens them: JupyterLab of `make lab` in a browser, all cells run.

Needs Playwright (`pip install playwright`, without its own browsers) and Chromium or Chrome.
What is run are copies with quick parameters in results/browser/, beside which stands a picture
of each page.
"""

import base64
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

from micse_utils.datasets.texts import load_sentences, load_tweets
from micse_utils.plotting.interactive import FRAMES
from tools.pages import write_site
from tools.run_notebooks import NOTEBOOKS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
FOLDER = ROOT / "results" / "browser"
QUICK = {
    "source": "package",
    "limit": 1_500,
    "steps": 1,
    "whole_steps": 1,
    "transfer_limit": 400,
    "trained_in": "04_low_shot_training/trained",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MINUTE = 60_000  # milliseconds
WIDTH, HEIGHT, TALL = 1400, 1000, 20_000  # of the window; of one that shows a whole notebook
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


def committed(name):
    return code_cells(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))


def figures_of(name):
    """Number of figures on a committed page, without those that are folded in."""
    outputs = [
        o
        for c in committed(name)
        if "solution" not in c.metadata.get("tags", [])
        for o in c.outputs
    ]
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
        timeout=20 * MINUTE,
    )
    # Cells that are folded in and out of sight have no prompt; the kernel knows of them.
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=20 * MINUTE)


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
    figures = page.locator(".jp-Notebook img:visible")
    figures.nth(count - 1).wait_for()
    sizes = figures.evaluate_all(
        "all => Promise.all(all.map(i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])))"
    )
    assert len(sizes) == count
    assert np.min(sizes) > 100


@pytest.mark.parametrize("name", NAMES)
def test_all_cells_run_in_the_browser(lab, page, copies, name, request):
    open_notebook(page, lab, f"results/browser/{name}.ipynb")
    run_all(page)
    picture(page, copies / f"{name}.png")

    assert page.locator(WRONG).all_inner_texts() == []
    counts = [cell.execution_count for cell in code_cells(save(page, copies / f"{name}.ipynb"))]
    assert counts == list(range(1, len(counts) + 1))

    check_figures(page, figures_of(name))
    check_bars(page, at_least=1 if name == "04_low_shot_training" else 0)
    check_formulas(page)
    check_solutions(page)
    if name == "04_low_shot_training":
        check_widgets(page, copies)
    if name == "02_tweet_clustering":
        check_map(page, copies / f"{name}_map.png")
    if name == "06_semantic_search":
        check_search_box(page, request.getfixturevalue("encoder"))


def check_widgets(page, path):
    """Every control draws, for each of its values, the frame of the committed page."""
    page.set_viewport_size({"width": WIDTH, "height": TALL})
    boxes = page.locator(".jp-OutputArea .widget-vbox", has=page.locator("img"))
    labels, controls = boxes.locator(".widget-label:visible"), frames_of("04_low_shot_training")
    assert labels.all_inner_texts() == [control["control"] for control in controls]
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)"
    assert labels.evaluate_all(cut) == []
    for control in controls:
        box = boxes.filter(has=page.locator(".widget-label", has_text=control["control"]))
        figure, handle = box.locator("img"), box.locator(".noUi-handle")
        for number, (value, frame) in enumerate(control["frames"]):
            if number:
                old = [figure.element_handle(), figure.get_attribute("src")]
                handle.press("ArrowRight")
                page.wait_for_function("([i, old]) => !i.isConnected || i.src !== old", arg=old)
            source = figure.get_attribute("src").split(",")[1]
            drawn, expected = (pixels(base64.b64decode(png)) for png in (source, frame))
            assert drawn.shape == expected.shape, (control["control"], value)
            assert np.abs(drawn - expected).mean() < 0.5, (control["control"], value)
        box.screenshot(path=path / f"{control['control']}.png")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def pixels(png):
    """The colours of a PNG, [y, x, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def frames_of(name):
    """The frames of each control of a committed page."""
    outputs = (o for cell in committed(name) for o in cell.outputs)
    return [output.data[FRAMES] for output in outputs if FRAMES in output.get("data", {})]


@pytest.mark.parametrize("name", ["04_low_shot_training", "06_semantic_search"])
def test_the_figures_of_a_web_page_follow_their_buttons(browser, tmp_path, name):
    write_site(tmp_path, tmp_path)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / f"{name}.html").as_uri())
    choices, controls = page.locator("fieldset"), frames_of(name)
    assert choices.count() == len(controls)
    for choice, control in zip(choices.all(), controls, strict=True):
        first = choice.get_by_role("radio").first
        first.focus()
        for number, (value, _) in enumerate(control["frames"]):
            if number:
                page.keyboard.press("ArrowRight")
            shown = choice.locator("img:visible")
            assert shown.get_attribute("alt") == f"{control['control']} {value}"
            box = shown.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()


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

    box = inside.get_by_label("Search the texts")
    box.fill("phone")
    page.wait_for_timeout(500)  # to draw it
    assert 0 < colourful(frame).sum() < 0.3 * points.sum()
    box.fill("")
    legend.click()
    page.wait_for_timeout(500)  # to draw it
    assert 0 < colourful(frame).sum() < 0.95 * points.sum()


def check_solutions(page):
    """They and what they gave stay folded in under their heading, also after all cells ran."""
    heading = page.locator(".jp-MarkdownCell", has=page.locator("h2", has_text="Solutions"))
    heading.scroll_into_view_if_needed()
    assert not page.locator(".jp-CodeCell:visible", has_text="# Solution to").count()


def check_search_box(page, encoder):
    """It holds the question of the page, and finds for another one what brute force finds."""
    box = page.locator(".jp-OutputArea .widget-text input")
    box.scroll_into_view_if_needed()
    assert "frogs" in box.input_value()
    sentences = load_sentences("package", limit=QUICK["limit"], seed=0).texts
    sentences = np.array(sentences)[np.random.default_rng(0).permutation(len(sentences))]
    vectors = encoder.encode(sentences[len(sentences) // 5 :].tolist(), normalize_embeddings=True)
    hits = page.locator(".jp-OutputArea .widget-vbox td.data.col0")
    for question in ("How do frogs breathe?", "presidents of the United States", "rain and snow"):
        before = hits.all_text_contents()
        assert len(before) == 5
        if question != box.input_value():
            box.fill(question)
            box.press("Enter")
            page.wait_for_function(
                """([selector, old]) => {
                    const hits = [...document.querySelectorAll(selector)];
                    return hits.length === 5 && hits.some((hit, i) => hit.textContent !== old[i]);
                }""",
                arg=[".jp-OutputArea .widget-vbox td.data.col0", before],
                timeout=MINUTE,
            )
        best = np.sort(vectors @ encoder.encode([question], normalize_embeddings=True)[0])[::-1][:5]
        np.testing.assert_allclose([float(c) for c in hits.all_text_contents()], best, atol=0.02)


def colourful(frame):
    """Which pixels have a colour, as points have and neither text nor frame has; [y, x]."""
    return np.ptp(pixels(frame.screenshot()), axis=2) > 60
