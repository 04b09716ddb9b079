"""Commands that README and docs tell people to type, run in a short form.

They run in a copy of the checkout beside an environment of links to the one that runs the tests.
What they write, install or delete is gone with the copy. The first test fails if a block for the
shell has a command that is not known here: it needs a short form, or a reason why it has none.
Commands within the text are only parsed (test_docs), but those run here must still be there.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from evaluation.test_senteval import write_year
from transformers import AutoConfig, AutoModel, AutoTokenizer

from micse_utils.provenance import sha256_of
from micse_utils.settings import cache_folder
from tools.bundle import kit_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
PYTHON = "{}.{}".format(*sys.version_info)
SENTENCES = [f"The {a} stood beside the {b}." for a in ("cat", "dog") for b in "abcdefgh"]


@dataclass(frozen=True)
class Short:
    """How a command becomes a short one, and what must come of it.

    Attributes:
        instead: parts of the command, and what stands in their place.
        add: what is put behind it.
        says: pattern that its output must match.
        leaves: a file that it must leave in the copy.
    """

    instead: dict[str, str] = field(default_factory=dict)
    add: str = ""
    says: str = ""
    leaves: str | None = None

    def of(self, command):
        """The short form of a command."""
        for part, other in self.instead.items():
            assert part in command
            command = command.replace(part, other)
        return f"{command} {self.add}"


MADE_ANEW = r"{} -m venv --clear anew[\s\S]*-m pip install .*--requirement requirements\.lock"
QUICK = {
    "make help": Short(says=r"make run +install, fetch"),
    "make install": Short(add="--dry-run VENV=anew", says=r"pip install .*requirements\.lock"),
    "make test ARGS=\"-m 'not slow'\"": Short(add="--dry-run", says=r"-m pytest .* -m 'not slow'"),
    "make test": Short(add='ARGS="--version"', says=r"already formatted\s+pytest \d"),
    'make test ARGS="-m browser"': Short(
        {"browser": "browser --markers --noconftest"}, says=r"mark\.browser: opens JupyterLab"
    ),
    **{
        f"PYTHON=python{version} make run": Short(
            add="--dry-run VENV=anew", says=MADE_ANEW.format(rf"python{re.escape(version)}")
        )
        for version in ("3.11", "3.12")
    },
    # What these do is run by other tests, see below; here, that make calls it.
    "make bundle": Short(add="--dry-run", says=r"python -m tools\.bundle pack"),
    "make bundle ARGS=FOLDER": Short(add="--dry-run", says=r"tools\.bundle pack FOLDER"),
    "make bench": Short(add="--dry-run", says=r"python tests/benchmarks/run\.py"),
    "make clean-notebooks": Short(add="--dry-run", says=r"python -m tools\.clean_notebooks"),
    'make run ARGS="--quick 01_similarity"': Short(
        add="--dry-run", says=r"-m tools\.run_notebooks +--quick 01_similarity"
    ),
    "make lab ARGS=--allow-root": Short(
        add="--dry-run", says=r"jupyter lab .*notebooks/01_similarity\.ipynb --allow-root"
    ),
    "make run ARGS=--force": Short(add="--dry-run", says=r"-m tools\.run_notebooks +--force"),
    "make bench ARGS=encoding": Short(add="--dry-run", says=r"benchmarks/run\.py encoding"),
    'make run ARGS="02_tweet_clustering -p limit 1000 -p seed 7 --results results/small"': Short(
        add="--dry-run", says=r"-m tools\.run_notebooks +02_tweet_clustering -p limit 1000 -p seed"
    ),
}
TRAINED_BRIEFLY = "--model small --steps 2 --batch-size 8 --min-layer 0 --max-layer 2"
FIRST = "01_similarity -p source package"
RUN = Short(
    add=f'ARGS="{FIRST}"',
    says="01_similarity: .* paraphrase 0.55, other scene 0.01",
    leaves="results/01_similarity/metrics.json",
)
SLOW = {  # two at a time, after `make run`
    "make run SOURCE=package": Short(add='ARGS="01_similarity"', says="01_similarity: up to date"),
    "python -m tools.run_notebooks": Short(
        {"python": ".venv/bin/python"}, add=FIRST, says="01_similarity: up to date"
    ),
    "make doctor": Short(says=r"✓ Python 3.*\n(?s:.*)✓ packages"),
    "make html": Short(says="run here: 01_similarity", leaves="results/html/index.html"),
    ".venv/bin/accelerate launch --num_processes 2 -m micse_utils train my-sentences.txt "
    "--output results/my-encoder": Short(
        {"launch": "launch --cpu", "results/my-encoder": "shared"},
        add=TRAINED_BRIEFLY,
        says=r"\| untouched: (?s:.*)shared/model",
        leaves="shared/model/model.safetensors",
    ),
    "MICSE_SENTEVAL=/path/to/SentEval .venv/bin/micse score all-MiniLM-L6-v2 --tasks sts": Short(
        {"/path/to": "."},
        says=r"\| all-MiniLM-L6-v2, mean \| \d(?s:.*)\| published \(MTEB",
        leaves="results/senteval/all-MiniLM-L6-v2/sts.md",
    ),
    ".venv/bin/micse reproduce results/cluster --starts whole centred --sizes 64 1000 "
    "--seeds 48-52 --workers 2": Short({"reproduce": "reproduce --help"}, says="folder of the run"),
}
FOLLOWING = {  # one after another, as in the README
    ".venv/bin/micse train my-sentences.txt --output results/my-encoder": Short(
        add=TRAINED_BRIEFLY,
        says=r"\| untouched: (?s:.*)results/my-encoder/model",
        leaves="results/my-encoder/model/model.safetensors",
    ),
    ".venv/bin/micse score results/my-encoder/model --tasks triplets": Short(
        says=r"\| my-encoder, \w+ \| \d(?s:.*)\| untouched: small",
        leaves="results/senteval/results-my-encoder-model/triplets.md",
    ),
    ".venv/bin/micse encode my-sentences.csv results/my-embeddings --column text "
    "--model results/my-encoder/model": Short(leaves="results/my-embeddings/_encoding.json"),
}
ELSEWHERE = {  # and the tests that run what they do
    "make lab": "test_lab.test_lab_opens_the_first_notebook_in_the_checkout",
    "make run BUNDLE=path/to/archive.tar": (
        "test_project.test_an_archive_that_is_not_there_is_one_sentence"
    ),
    "tar xf micse-kit-bundle-*.tar && cd micse-kit && make run": (
        "test_bundle.test_unpacked_by_tar_the_folder_is_a_kit_with_its_bundle"
    ),
    "python -m tools.doctor": (
        "test_doctor.test_without_a_network_it_says_what_is_missing_and_names_nobody"
    ),
    "make bundle": "test_bundle.test_what_is_packed_comes_out_and_installs_without_an_index",
    "make bench": "test_benchmarks.test_ratios_are_those_of_the_seconds_and_the_machine_is_named",
    "make bench ARGS=encoding": (
        "test_benchmarks.test_ratios_are_those_of_the_seconds_and_the_machine_is_named"
    ),
    'make run ARGS="02_tweet_clustering -p limit 1000 -p seed 7 --results results/small"': (
        "test_notebooks.test_clusters_belong_to_the_map_and_topics_account_for_every_tweet"
    ),
    "make run ARGS=--force": (
        "test_run_notebooks.test_it_says_why_a_page_is_run_again_and_keeps_what_people_wrote"
    ),
    ".venv/bin/torchrun --nproc_per_node 2 -m micse_utils train my-sentences.txt "
    "--output results/my-encoder": "test_trainer.test_two_processes_train_what_one_trains",
}
WINDOWS = {  # as other systems have them
    r"py -m venv .venv": Short({"venv .venv": "venv --without-pip anew"}, leaves="anew/pyvenv.cfg"),
    r".venv\Scripts\pip install -r requirements.lock -e .": Short(
        add="--dry-run --no-index --no-build-isolation", says="Would install micse-kit"
    ),
    r".venv\Scripts\pip install --no-index --find-links bundle\wheels -r requirements.lock": Short(
        add="--dry-run", says="already satisfied: torch"
    ),
    r".venv\Scripts\pip install --no-index --no-deps --no-build-isolation -e .": Short(
        add="--dry-run", says="Would install micse-kit"
    ),
}
NOT_HERE = {  # and why not; what can be checked of them is below
    "git clone https://github.com/you/micse-kit && cd micse-kit": "needs the network",
    "conda env create -f environment.yml": "asks conda's servers for an environment",
    "conda activate micse-kit": "needs that environment",
    ".venv/bin/pip install playwright": "asks the package index for what only -m browser needs",
    "py -3.11 -m venv .venv": "Windows; as `py -m venv .venv`, which is run",
    r".venv\Scripts\python -m tools.run_notebooks": "Windows; its other form is run",
}


def commands():
    """Commands of the pages: each line of the blocks for the shell; and those in the text."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = {re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()}
    spans = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
    return lines, spans


def copied(folder):
    """A copy of the checkout in `folder`, with an environment that takes the kit from there.

    The environment is a folder of links: what a command deletes of it is a link.
    """
    for name in kit_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    own, packages = Path(sys.prefix), Path(sysconfig.get_path("purelib"))
    environment = folder / ".venv"
    inside = environment / packages.relative_to(own)
    inside.mkdir(parents=True)
    kept = [path for path in own.iterdir() if not path.name.startswith(("lib", "ready-"))]
    links = {environment / path.name: path for path in kept}
    # All packages but the kit that is installed, which need not be this one.
    kept = [path for path in packages.iterdir() if not path.name.startswith("__editable__")]
    links |= {inside / path.name: path for path in kept}
    for link, target in links.items():
        link.symlink_to(target)
    (inside / "kit.pth").write_text(f"{folder}\n", encoding="utf-8")
    (environment / f"ready-{PYTHON}").touch()  # now, so newer than what it is made from
    return folder


def call(command, folder):
    """Call a command in a copy as a user does who has no settings, no hub, and what was fetched."""
    ours = ("MICSE_", "MAKE", "MFLAGS", "ARGS", "SOURCE", "JUPYTER", "PYTHON", "PYTEST")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    variables |= {"HF_HUB_OFFLINE": "1", "MICSE_CACHE": str(cache_folder()), "OMP_NUM_THREADS": "1"}
    variables["PATH"] = f"{folder / 'other'}{os.pathsep}{variables['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=folder, env=variables, capture_output=True, text=True
    )


def check(done, short, folder):
    """That a short form succeeded, said and left what it should."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(short.says, done.stdout), done.stdout + done.stderr
    assert short.leaves is None or (folder / short.leaves).is_file()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A copy in which nothing ran, and Pythons of other versions that only say which they are."""
    folder = copied(tmp_path_factory.mktemp("untouched"))
    (folder / "other").mkdir()
    for version in ("3.11", "3.12"):
        python = folder / "other" / f"python{version}"
        python.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {version} ;; esac\n')
        python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def used(tmp_path_factory, tiny_bert):
    """A copy in which `make run` was called, with sentences, scored pairs and a small model."""
    folder = copied(tmp_path_factory.mktemp("used"))
    (folder / "my-sentences.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    (folder / "my-sentences.csv").write_text("\n".join(["text", *SENTENCES]), encoding="utf-8")
    write_year(folder / "SentEval")
    config = AutoConfig.from_pretrained(tiny_bert, num_hidden_layers=3, num_attention_heads=8)
    AutoModel.from_config(config).save_pretrained(folder / "small")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "small")
    check(call(RUN.of("make run"), folder), RUN, folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(used):
    """What came of the slow commands."""
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call, short.of(command), used) for command, short in SLOW.items()]
    return {command: done.result() for command, done in zip(SLOW, calls, strict=True)}


def test_every_command_is_known_here_and_all_that_is_known_is_there():
    known = {"make run", "make clean", *QUICK, *SLOW, *FOLLOWING, *ELSEWHERE, *WINDOWS, *NOT_HERE}
    lines, spans = commands()
    assert lines - known == set()
    assert known - lines - spans == set()


@pytest.mark.parametrize("command", QUICK)
def test_a_command_does_what_the_pages_say(command, untouched):
    check(call(QUICK[command].of(command), untouched), QUICK[command], untouched)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_a_slow_command_does_what_the_pages_say(command, used, outcomes):
    check(outcomes[command], SLOW[command], used)


@pytest.mark.slow
def test_each_command_of_the_readme_uses_what_the_one_before_it_made(used):
    for command, short in FOLLOWING.items():
        check(call(short.of(command), used), short, used)
    encoded = json.loads((used / "results/my-embeddings/_encoding.json").read_text("utf-8"))
    weights = used / "results/my-encoder/model/model.safetensors"
    assert encoded["provenance"]["sha256"] == sha256_of([weights])
    assert encoded["rows"] == len(SENTENCES)


@pytest.mark.parametrize("command", WINDOWS)
def test_a_command_of_windows_runs_in_its_form_for_other_systems(command, untouched):
    posix = re.sub("^py ", ".venv/bin/python ", command).replace("\\", "/")
    posix = posix.replace("Scripts/pip", "bin/python -m pip")
    check(call(WINDOWS[command].of(posix), untouched), WINDOWS[command], untouched)


def test_make_clean_deletes_what_was_made_and_nothing_else(tmp_path):
    folder = copied(tmp_path)
    made = [folder / name for name in ("results/x", "micse_utils/__pycache__/x", "build/x")]
    for file in made:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert call("make clean", folder).returncode == 0
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == set(kit_files())
    assert Path(sys.executable).exists() and Path(sysconfig.get_path("purelib"), "torch").is_dir()


@pytest.mark.parametrize("test", ELSEWHERE.values())
def test_the_test_that_calls_the_command_elsewhere_is_there(test):
    module, name = test.split(".")
    [file] = (ROOT / "tests").rglob(f"{module}.py")
    text = file.read_text(encoding="utf-8")
    assert f"\ndef {name}(" in text


def test_what_cannot_run_here_names_modules_files_and_an_environment_that_exist():
    """Of all commands that another system runs, or that ask a network."""
    text = "\n".join([*WINDOWS, *NOT_HERE]).replace("\\", "/")
    for module in re.findall(r"-m ((?:micse_utils|tools)[.\w]+)", text):
        assert importlib.util.find_spec(module)
    files = set(re.findall(r"[\w.-]+\.(?:yml|lock)", text))
    assert files == {"environment.yml", "requirements.lock"}
    assert all((ROOT / file).is_file() for file in files)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert f"conda activate {environment['name']}" in NOT_HERE
    assert ".venv/bin/pip install playwright" in (ROOT / "tests/test_browser.py").read_text()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for option in ("--no-index --find-links bundle/wheels", "--no-deps --no-build-isolation"):
        assert option in text and option in makefile
