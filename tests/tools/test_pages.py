"""The pages: whole without a network, wherever their folder lies."""

import re
import shutil
from html.parser import HTMLParser

import nbformat
import numpy as np
import pandas as pd
import pytest

from micse_utils.plotting.maps import interactive_map
from micse_utils.plotting.style import text_table
from tools import pages
from tools.pages import main, markdown_to_html, write_site
from tools.run_notebooks import NOTEBOOKS, ROOT

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
TWEETS, SCORING = "02_tweet_clustering", "05_senteval"
LOADING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background"}
FROM_ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
LOADED_BY_CODE = re.compile(  # of style sheets and scripts
    r"""url\(\s*["']?(?:https?:)?//|\b(?:import|from)\s*\(?\s*["'](?:https?:)?//""", re.IGNORECASE
)


class Page(HTMLParser):
    """What a page loads, where it leads, and the text of its prose."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.code, self.prose, self.images = [], [], "", "", []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = {name: value or "" for name, value in attributes}
        if tag not in ("meta", "link", "img", "br", "hr", "input", "path"):
            self.open.append(tag)
        for name in LOADING & attributes.keys():
            (self.links if tag == "a" else self.loaded).append(attributes[name])
        if tag == "img":
            self.images.append(attributes)
        self.code += attributes.get("style", "") + "\n"
        if "srcdoc" in attributes:  # a page in the page
            inner = Page(attributes["srcdoc"])
            self.loaded += inner.loaded
            self.code += inner.code
            self.inner = inner

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if {"script", "style"} & set(self.open):
            self.code += data
        elif not {"pre", "code", "table"} & set(self.open):
            self.prose += data


def put_run(results, name, source=lambda text: text, text="one"):
    """A run of a notebook with parameters from outside and, of the tweets, the interactive map."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    notebook.cells[0].source = source(notebook.cells[0].source)
    given = nbformat.v4.new_code_cell(f'# Parameters\nseed = 7\nresults = "{results}"\n')
    given.metadata["tags"] = ["injected-parameters"]
    notebook.cells.insert(2, given)
    for cell in notebook.cells:
        if "interactive_map" in cell.source:
            colours = {"a": "#56B4E9", "b": "#E69F00"}
            page = interactive_map(
                np.eye(2), [text, "two"], ["a", "b"], colours=colours, title=text
            )
            escaped = page.replace("&", "&amp;").replace('"', "&quot;")
            html = f'<div><iframe srcdoc="{escaped}" width="920" height="640"></iframe></div>'
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": html})]
    (results / name).mkdir()
    nbformat.write(notebook, results / name / f"{name}.ipynb")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages after their folder was moved; the tweets from a run, scoring's run is outdated."""
    results = tmp_path_factory.mktemp("results")
    put_run(results, TWEETS)
    put_run(results, SCORING, lambda text: text.replace("**Time**", "**Time** once"))
    assert main(["--results", str(results)]) == 0
    return (results / "html").rename(tmp_path_factory.mktemp("stick") / "pages")


@pytest.fixture(scope="module", name="pages")
def pages_of(site):
    return {path.stem: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}


def test_there_is_an_index_a_page_a_notebook_and_one_for_teachers(pages):
    assert sorted(pages) == sorted([*NAMES, "TEACHING", "index"])
    for page in pages.values():
        assert {f"{name}.html" for name in pages} <= set(page.links)


def test_nothing_is_loaded_from_the_network(site, pages):
    for name, page in pages.items():
        assert page.loaded, name
        assert not [target for target in page.loaded if FROM_ELSEWHERE.match(target)], name
        assert not LOADED_BY_CODE.search(page.code), name
    assert not LOADED_BY_CODE.search((site / "style.css").read_text(encoding="utf-8"))


def test_every_link_and_picture_lies_beside_the_pages(site, pages):
    for name, page in pages.items():
        for target in page.links:
            inside = target.startswith("#") or (site / target).is_file()
            assert inside or target.startswith("https://"), f"{name}: {target}"
        for target in page.loaded:
            assert target.startswith("data:") or (site / target).is_file(), f"{name}: {target}"
            assert not target.startswith("/")


def test_no_formula_is_left_as_tex_and_none_is_lost(site, pages):
    assert not [name for name, page in pages.items() if re.search(r"\$|\\\(|\\\[", page.prose)]
    converted = 0
    for name in NAMES:
        cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        written = re.findall(r"\$([^$\n]+)\$", re.sub(r"`[^`\n]*`", "", prose))
        html = (site / f"{name}.html").read_text(encoding="utf-8")
        assert html.count("<math ") == len(written), name
        converted += len(written)
    assert converted >= 5


def test_no_page_bears_a_path_of_this_machine(site, pages):
    path = re.compile(r"/(?:home|root|Users|tmp|work)/\w")
    for name, page in pages.items():
        html = (site / f"{name}.html").read_text(encoding="utf-8")
        assert str(ROOT) not in html
        assert not path.search(page.prose)
        assert not path.search(re.sub(r'(?s)<iframe.*?</iframe>|base64,[^"]*"', "", html))


def test_a_run_goes_before_the_committed_page_if_its_cells_are_the_same(site, pages):
    tweets = (site / f"{TWEETS}.html").read_text(encoding="utf-8")
    assert pages[TWEETS].inner.code.count("bokeh") > 10
    assert re.search(r"seed</span> <span[^>]*>=</span> <span[^>]*>7<", tweets)
    scoring = (site / f"{SCORING}.html").read_text(encoding="utf-8")
    assert "once" not in pages["index"].prose and "<strong>Time</strong> once" not in scoring


def test_the_index_says_of_each_notebook_its_question_minutes_and_headline(pages):
    index = " ".join(pages["index"].prose.split())
    for name in NAMES:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        first, *_ = notebook.cells[0].source.split("\n", 1)
        assert first.removeprefix("# ") in index
        [cell] = [c for c in notebook.cells if c.source.endswith("print(headline)")]
        assert " ".join(cell.outputs[-1].text.split()) in index
    assert "Do two sentences mean the same? (half a minute on 2 CPU cores)" in index
    assert index.count("?") == index.count(" on 2 CPU cores") == len(NAMES)
    assert len({image["src"] for image in pages["index"].images}) == len(NAMES)


def test_every_picture_is_described_and_every_solution_folded(site, pages):
    for name, page in pages.items():
        assert all(image.get("alt") for image in page.images), name
        assert not any("No description" in image["alt"] for image in page.images), name
    for name in NAMES:
        html = (site / f"{name}.html").read_text(encoding="utf-8")
        folded = re.findall(r"(?s)<details><summary>(Solution.*?)</summary>(.*?)</details>", html)
        assert [summary for summary, _ in folded] == re.findall(r"# (Solution to \d): ", html)
        assert folded and all(f"# {summary}: " in cell for summary, cell in folded)


def test_files_of_the_user_stay(tmp_path, monkeypatch, capsys):
    """In a folder that is not the kit's nothing is written; beside pages they are kept."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine", encoding="utf-8")
    assert main(["~/mine"]) == 1
    assert f"{tmp_path / 'mine'} holds" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]

    monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS / "TEACHING.md", tmp_path / "notebooks")
    for text in ("", "an old page"):
        assert main(["~/pages"]) == 0
        (tmp_path / "pages" / "mine.html").write_text("mine", encoding="utf-8")
        (tmp_path / "pages" / "index.html").write_text(text, encoding="utf-8")
    assert main(["~/pages"]) == 0
    assert (tmp_path / "pages" / "mine.html").read_text(encoding="utf-8") == "mine"
    assert "miCSE" in (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")


def test_a_formula_becomes_mathml_in_a_line_or_on_its_own():
    for written, display in (("with $a < b$ in it", "inline"), ("$$a < b$$", "block")):
        shown = markdown_to_html(written)
        tags = re.findall(r"<m([ion])>(.*?)</m\1>", shown)
        assert tags == [("i", "a"), ("o", "&#x0003C;"), ("i", "b")]
        assert f'display="{display}"' in shown and "$" not in shown


def test_hostile_texts_are_text_on_every_page(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name in ("TEACHING.md", f"{TWEETS}.ipynb"):
        shutil.copy(NOTEBOOKS / name, tmp_path / "notebooks")
    monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path / "notebooks")
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    put_run(tmp_path, TWEETS, text=hostile)
    file = tmp_path / TWEETS / f"{TWEETS}.ipynb"
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    table = text_table(pd.DataFrame({hostile: [hostile]})).to_html()
    for data in ({"text/plain": hostile}, {"text/html": table}):
        code[0].outputs.append(nbformat.v4.new_output("display_data", data))
    [last] = [cell for cell in code if cell.source.endswith("print(headline)")]
    last.outputs[-1].text = hostile + "[a](javascript:alert(3))"
    nbformat.write(notebook, file)
    assert write_site(tmp_path / "html", tmp_path) == [TWEETS]
    for name, shown in ((TWEETS, 6), ("index", 2)):
        html = (tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")
        assert html.count("alert(2)") >= shown
        assert not re.search(r"<script>alert|<img src=x|href=.javascript", html)
