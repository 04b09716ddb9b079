"""The command `micse` itself; what its commands do is tested beside the modules they call."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml
from sentence_transformers.sentence_transformer.modules import Pooling

import micse_utils
from micse_utils.cli import COMMANDS, POOLINGS, _parser, main


def run(*arguments, **options):
    call = [sys.executable, "-m", "micse_utils", *arguments]
    return subprocess.run(call, capture_output=True, text=True, **options)


def test_the_version_is_that_of_the_package():
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"micse {micse_utils.__version__}")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_ends_with_an_example_that_parses(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert stopped.value.code == 0 and len(lines) <= 50
    if command == "train":  # what all recipes share, and what not
        text = " ".join(" ".join(lines).split())
        for said in ("may be smaller (default: 64)", "--max-length N tokens kept of each sentence",
                     "--epochs N passes over the sentences --steps N"):  # fmt: skip
            assert said in text
    example = lines[-1].removeprefix("Example: micse ")
    assert _parser().parse_args(example.split()).command == command


@pytest.mark.parametrize(
    "call",
    [
        "", "learn", "train", "train a.txt --steps", "score auto --pooling avg",
        "encode in out --block-rows 0", "reproduce out --seeds 48-x",
        "reproduce out --seeds 48 52-50",
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2(call, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(call.split())
    assert stopped.value.code == 2
    assert "usage: micse" in capsys.readouterr().err


def test_a_misspelt_place_is_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "in.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    calls = {
        "train in.txt --output mine": "no marker of the kit",
        "train in.txt --output in.txt": "in.txt is not a folder",
        "train in.txt --output out --model ./modle": "there is no model folder ./modle",
        "score auto --output mine": "no marker of the kit",
        "score all-minilm-l6-v3": "is called all-minilm-l6-v3; did you mean all-MiniLM-L6-v2, or",
        "encode in.txt out --model micsee": "did you mean miCSE, or",
        "score in.txt": "there is no model folder in.txt",
        "score a/b/c": "there is no model folder a/b/c",
        "encode in.txt mine": "no marker of the kit",
        "encode in.txt out --source packge": "source must be",
        "encode in.txt out --engine jax": "--engine (or MICSE_ENGINE) must be one of",
        "reproduce mine": "no marker of the kit",
        "reproduce out --source package": "source must be hub or a folder, got package",
    }
    code = "import sys; from micse_utils.cli import main\n"
    code += "for call in sys.argv[1:]: assert main(call.split()) == 1\n"
    code += "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    call = [sys.executable, "-c", code, *calls]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line, said in zip(done.stderr.splitlines(), calls.values(), strict=True):
        assert said in line
    assert {path.name for path in tmp_path.rglob("*")} == {"in.txt", "mine", "thesis.txt"}


def test_poolings_are_those_of_the_library():
    assert {*POOLINGS} == {*Pooling.POOLING_MODES}


def test_sigterm_says_how_to_go_on_as_ctrl_c_does():
    code = "import os, signal, sys, time; from micse_utils import cli\n"
    code += "def stop(options): os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    code += "cli.COMMANDS['score'] = (stop, *cli.COMMANDS['score'][1:]); sys.exit(cli.main())"
    call = [sys.executable, "-c", code, "score", "auto"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "\nInterrupted. Run the same command again to start over.\n"


def test_without_ray_one_sentence_says_so(tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("micse_utils.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "in.txt").write_text("a cat\n", encoding="utf-8")
    call = ["encode", str(tmp_path / "in.txt"), str(tmp_path / "out"), "--address", "auto"]
    assert main([*call, "--model", str(tiny_bert)]) == 1
    assert "cluster at auto (import of ray" in capsys.readouterr().err.splitlines()[-1]


def test_results_go_to_stdout_and_all_else_to_stderr(tiny_bert, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["score", str(tiny_bert), "--source", "package", "--output", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("| model | Lee |") and said.out.endswith(f"results: {out}\n")
    table = pd.read_csv(out / "sts.csv").query("subset == 'all'")["spearman"]
    assert "model-index" not in said.out and "95 % intervals, " in said.out
    [card] = yaml.safe_load((out / "sts.yaml").read_text(encoding="utf-8"))["model-index"]
    found = [result["metrics"][0]["value"] for result in card["results"]]
    assert found == pytest.approx(table.tolist(), abs=0.005)


def test_a_users_own_scores_are_not_overwritten(tiny_bert, tmp_path, capsys):
    (tmp_path / "sts.csv").write_text("mine", encoding="utf-8")
    call = ["score", str(tiny_bert), "--source", "package", "--output", str(tmp_path)]
    assert main(call) == 1
    assert "sts.csv" in capsys.readouterr().err
    assert (tmp_path / "sts.csv").read_text(encoding="utf-8") == "mine"
