"""README, docs and notebooks: links, commands, figures, code, and messages that they quote."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from micse_utils.cli import COMMANDS, main
from micse_utils.evaluation.published import PUBLISHED
from tools.run_notebooks import read_parameters

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
TEACHING = ROOT / "notebooks" / "TEACHING.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("data/**/README.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PAGES = [*READMES, *DOCS, TEACHING, *OTHERS, *NOTEBOOKS]
TOOLS = {"run": "run_notebooks", "notebooks": "run_notebooks", "html": "pages"}
"""Of make's targets, the tool that gets ARGS."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"([A-Z_]+=\S* )*(\.venv\S*[/\\])?(make|micse|python|py|torchrun|accel)")
NUMBER = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d)")
FIGURE = rf"{NUMBER.pattern}|\b\d+(?=(?: to \d+)? %)"
PAGE = r"[Nn]otebook (\d)"
EXERCISE = r"(?:\*\*|\b[Ii]n )(\d)\.\d"


def named(page):
    return page.relative_to(ROOT).as_posix()


@cache
def text_of(page):
    """The Markdown of a page; of a notebook, that of its cells for it."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def prose_of(page):
    return FENCE.sub("", text_of(page))


def anchors(page):
    """Names of a page's headings as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower().strip())
        name = name.replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


def links(page):
    text = re.sub(r"`[^`\n]*`", "", prose_of(page))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"src=\"([^\"]+)\"", text)


def commands(page):
    """Commands of a page: of each, its words, and whether it is one to copy as a whole."""
    blocks = [block for kind, block in FENCE.findall(text_of(page)) if kind == "sh"]
    lines = [(line, True) for block in blocks for line in block.splitlines()]
    lines += [(span, False) for span in re.findall(r"`([^`\n]+)`", prose_of(page))]
    for line, whole in lines:
        line = re.sub(r"\s+#.*", "", line)
        if not COMMAND.match(line):
            continue
        for command in line.replace("\\", "/").split(" && "):
            words = shlex.split(command)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            yield [Path(words[0]).name, *words[1:]], whole


@cache
def help_of(*command):
    """What `--help` of a tool, or of a command of `micse`, prints."""
    name, *rest = command
    call = main if name == "micse" else importlib.import_module(name).main
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as stopped:
        call([*rest, "--help"])
    assert stopped.value.code == 0
    return printed.getvalue()


def options(words):
    return {word.split("=")[0] for word in words if re.match(r"--\w", word)}


def check_options(words, *command):
    known = set(re.findall(r"--[\w-]+", help_of(*command)))
    assert options(words) <= known, f"{' '.join(words)} of {command}"


def check_micse(arguments, whole, monkeypatch):
    if not arguments or options(arguments) & {"--help", "--version"}:
        return
    name, *rest = arguments
    assert name in COMMANDS
    check_options(rest, "micse", name)
    if whole:  # the real parser takes it all
        monkeypatch.setitem(COMMANDS, name, (lambda options: None, *COMMANDS[name][1:]))
        assert main(arguments) == 0


def check_make(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    for target in [w for w in words if "=" not in w and not w.startswith("-")]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        arguments = shlex.split(given.get("ARGS", ""))
        if target in TOOLS:
            check_options(arguments, f"tools.{TOOLS[target]}")
        if target in ("run", "notebooks"):
            pairs = [arguments[i + 1 : i + 3] for i, a in enumerate(arguments) if a == "-p"]
            names = [word for word in arguments if re.match(r"\d\d_", word)]
            assert all((ROOT / f"notebooks/{name}.ipynb").exists() for name in names)
            read_parameters(names, [tuple(pair) for pair in pairs])
    for variable in given:
        assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), variable


def check_python(words):
    if "-m" in words:
        module, *rest = words[words.index("-m") + 1 :]
        assert importlib.util.find_spec(module), module
        assert all((ROOT / place).exists() for place in rest if place.startswith("tests/"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in links(page):
        if re.match(r"\w+:", link):
            assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/\S*)?", link), link
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_name_what_exists(page, monkeypatch):
    for (program, *words), whole in commands(page):
        if "micse_utils" in words:  # -m micse_utils, by python, torchrun or accelerate
            program, words = "micse", words[words.index("micse_utils") + 1 :]
        if program == "micse":
            check_micse(words, whole, monkeypatch)
        elif program == "make":
            check_make(words)
        elif program.startswith("py"):
            check_python(words)


def test_both_readmes_have_the_same_commands_links_and_figures():
    english, chinese = READMES
    both = {*links(english), *map(str, commands(english))}
    assert both - {*links(chinese), *map(str, commands(chinese))} == {"README.zh-CN.md"}
    assert NUMBER.findall(text_of(english)) == NUMBER.findall(text_of(chinese))


def numbers(text):
    """All decimal numbers of a text, and its percentages."""
    return {float(n) for n in NUMBER.findall(text) + re.findall(r"\d+(?= ?%)", text)}


@cache
def printed(notebook):
    """Every number in the outputs of a notebook."""
    found = set()
    [path] = [path for path in NOTEBOOKS if path.name.startswith(f"0{notebook}")]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found |= numbers("".join(output.get("text", [])))
            for kind in ("text/plain", "text/html"):
                found |= numbers("".join(data.get(kind, [])))
    return found


@cache
def recorded():
    """Every number of the recorded tables and of the published rows."""
    tables = [f.read_text(encoding="utf-8") for f in ROOT.glob("data/recorded/**/*.csv")]
    published = {score for row in PUBLISHED.values() for score in row.scores.values()}
    means = {sum(row.scores.values()) / 7 for row in PUBLISHED.values()}
    return published | means | set().union(*map(numbers, tables))


def measured(page):
    """Figures of a page, each with the notebooks whose outputs must have it.

    The notebooks are those named in its line, or in the heading above; without any, the figure
    must be recorded. A section that states its source is left out, or the page if it opens so.
    """
    text = re.sub(
        r"`[^`\n]*`|(Python|License) [\d.]+( (to|至) [\d.]+)?|[\d.]+ GB|95 %", "", prose_of(page)
    )
    opening, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    for section in [] if re.search(r"^Source", opening, re.MULTILINE) else [opening, *sections]:
        if re.search(r"^Source|\. Source:", section, re.MULTILINE):
            continue
        heading = section.partition("\n")[0]
        for line in section.splitlines():
            named = (
                re.findall(EXERCISE, line) or re.findall(PAGE, line) or re.findall(PAGE, heading)
            )
            for figure in re.findall(FIGURE, re.sub(EXERCISE, "", line)):
                yield figure, frozenset(named)


def is_known(figure, notebooks):
    """Whether a figure, rounded as it is, is in these notebooks' outputs or in the records."""
    known = set().union(*map(printed, notebooks)) if notebooks else recorded()
    step = 0.5001 * 10 ** -len(figure.partition(".")[2])
    scales = (1,) if "." in figure else (1, 100)  # a percentage may be printed as a share
    return any(abs(scale * n - float(figure)) <= step for n in known for scale in scales)


@pytest.mark.parametrize("page", [*READMES, *DOCS, TEACHING], ids=named)
def test_figures_are_recorded(page):
    unknown = [
        (f, *sorted(notebooks)) for f, notebooks in measured(page) if not is_known(f, notebooks)
    ]
    assert not unknown, f"{unknown}: in no output of these notebooks, or in no recorded file"


BLOCKS = [
    pytest.param(block, id=f"{named(page)}-{number}")
    for page in [*READMES, *DOCS]
    for number, (kind, block) in enumerate(FENCE.findall(text_of(page)))
    if kind == "python"
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_runs(block, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr("micse_utils.models.load_model", lambda *_, **__: encoder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    vectors = names.get("embeddings", names.get("out"))
    assert vectors.shape == (2, 384)
    assert (abs(vectors).sum(axis=1) > 0).all()


def test_quoted_messages_are_those_of_the_kit():
    """So that who searches for a message finds it; … stands for what differs."""
    own, _ = text_of(ROOT / "docs" / "troubleshooting.md").split("## Messages of other programs")
    files = [*ROOT.glob("micse_utils/**/*.py"), *ROOT.glob("tools/*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    code = re.sub(r"[\"']\s*\n\s*[rf]*[\"']", "", code).replace("\\'", "'")  # one string
    code = re.sub(r"\{[^{}\n]*\}", "…", code)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    code += re.sub(r"\$\([A-Z]\w*\)", "…", makefile)
    messages = re.findall(r"^\| `([^`]+)` \|", own, re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        assert message.strip("… ") in code, message
