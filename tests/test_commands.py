"""Commands that README and docs tell people to type, run in a short form.

They run in a copy of the checkout beside an environment of links to the one that runs the tests.
What they write, install or delete is gone with the copy. The first test fails if a block for the
shell has a command that is not known here. All commands are also parsed, in `test_docs`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
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
        add: what is put behind it.
        says: pattern that its output must match.
        leaves: a file that it must leave in the copy.
    """

    add: str = ""
    says: str = ""
    leaves: str | None = None

    def of(self, command):
        """The short form of a command."""
        return f"{command} {self.add}"


QUICK = {
    "make help": Short(says=r"make run +install, fetch"),
    "make install": Short(
        add="--dry-run VENV=anew",
        says=r"-m venv --clear anew[\s\S]*-m pip install .*--requirement requirements\.lock",
    ),
    "make test": Short(add='ARGS="--version"', says=r"already formatted\s+pytest \d"),
}
TRAINED_BRIEFLY = "--model small --steps 2 --batch-size 8 --min-layer 0 --max-layer 2"
FOLLOWING = {  # one after another, as in the README
    "make run": Short(
        add='ARGS="01_similarity -p source package"',
        says="01_similarity: .* paraphrase 0.55, other scene 0.01",
        leaves="results/01_similarity/metrics.json",
    ),
    "make run SOURCE=package": Short(add='ARGS="01_similarity"', says="01_similarity: up to date"),
    "make doctor": Short(says=r"✓ Python 3.*\n(?s:.*)✓ packages"),
    "make html": Short(says="run here: 01_similarity", leaves="results/html/index.html"),
    ".venv/bin/micse train my-sentences.txt --output results/my-encoder": Short(
        add=TRAINED_BRIEFLY,
        says=r"\| untouched: (?s:.*)results/my-encoder/model",
        leaves="results/my-encoder/model/model.safetensors",
    ),
    ".venv/bin/micse score results/my-encoder/model --tasks triplets": Short(
        says=r"\| my-encoder, \w+ \| \d(?s:.*)\| untouched: small",
        leaves="results/senteval/results-my-encoder-model/triplets.md",
    ),
    ".venv/bin/micse encode my-sentences.txt results/my-embeddings "
    "--model results/my-encoder/model": Short(leaves="results/my-embeddings/_encoding.json"),
}
ONLY_PARSED = {  # run by other tests, too slow, for another system, or in need of a network
    "make lab",
    "make test ARGS=\"-m 'not slow'\"",
    "tar xf micse-kit-bundle-*.tar && cd micse-kit && make run",
    'make run ARGS="02_tweet_clustering -p limit 1000 -p seed 7 --results results/small"',
    ".venv/bin/torchrun --nproc_per_node 2 -m micse_utils train my-sentences.txt "
    "--output results/my-encoder",
    "git clone https://github.com/you/micse-kit && cd micse-kit",
    ".venv/bin/accelerate launch --num_processes 2 -m micse_utils train my-sentences.txt "
    "--output results/my-encoder",
    "MICSE_SENTEVAL=/path/to/SentEval .venv/bin/micse score all-MiniLM-L6-v2 --tasks sts",
    ".venv/bin/micse reproduce results/cluster --starts whole centred --sizes 64 1000 "
    "--seeds 48-52 --workers 2",
}


def commands():
    """Commands of the pages: each line of their blocks for the shell."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return {re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()}


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


def as_a_user():
    """Variables of a user who has no settings, no hub, and what was fetched."""
    ours = ("MICSE_", "MAKE", "MFLAGS", "ARGS", "SOURCE", "JUPYTER", "PYTHON", "PYTEST")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    offline = {"HF_HUB_OFFLINE": "1", "MICSE_CACHE": str(cache_folder())}
    return variables | offline | {"OMP_NUM_THREADS": "1"}


def call(command, folder):
    """Call a command in a copy."""
    return subprocess.run(
        command, shell=True, cwd=folder, env=as_a_user(), capture_output=True, text=True
    )


def check(done, short, folder):
    """That a short form succeeded, said and left what it should."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(short.says, done.stdout), done.stdout + done.stderr
    assert short.leaves is None or (folder / short.leaves).is_file()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A copy in which nothing ran."""
    return copied(tmp_path_factory.mktemp("untouched"))


def test_every_command_is_known_here():
    known = {*QUICK, *FOLLOWING, *ONLY_PARSED}
    assert commands() == known


@pytest.mark.parametrize("command", QUICK)
def test_a_command_does_what_the_pages_say(command, untouched):
    check(call(QUICK[command].of(command), untouched), QUICK[command], untouched)


@pytest.mark.slow
def test_each_command_of_the_readme_uses_what_the_one_before_it_made(tmp_path, tiny_bert):
    folder = copied(tmp_path)
    (folder / "my-sentences.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    config = AutoConfig.from_pretrained(tiny_bert, num_hidden_layers=3, num_attention_heads=8)
    AutoModel.from_config(config).save_pretrained(folder / "small")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "small")
    for command, short in FOLLOWING.items():
        check(call(short.of(command), folder), short, folder)
    encoded = json.loads((folder / "results/my-embeddings/_encoding.json").read_text("utf-8"))
    weights = folder / "results/my-encoder/model/model.safetensors"
    assert encoded["provenance"]["sha256"] == sha256_of([weights])
    assert encoded["rows"] == len(SENTENCES)


@pytest.mark.slow
def test_after_ctrl_c_make_run_ends_with_how_to_resume(tmp_path):
    process = subprocess.Popen(
        ["make", "run", "SOURCE=package"], cwd=copied(tmp_path), env=as_a_user(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored behind an `&`
    )  # fmt: skip
    first = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert "01_similarity: running" in first
    assert printed.endswith("Interrupted. Run the same command again to resume.\n")
    assert process.returncode == -signal.SIGINT


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
