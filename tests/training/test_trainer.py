"""The trainer on a tiny BERT: what it keeps, resumes, refuses and shares between processes."""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers import AutoModel, PreTrainedTokenizerBase

from micse_utils.cli import main
from micse_utils.datasets.sts import Pairs
from micse_utils.datasets.texts import read_sentences
from micse_utils.models import load_model
from micse_utils.provenance import Provenance
from micse_utils.results import claimed
from micse_utils.training import run
from micse_utils.training.config import LowShotConfig
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.trainer import train_low_shot

with contextlib.suppress(ImportError):  # Windows has none
    import resource

NOUNS, VERBS, PLACES = ["cat", "dog", "mat", "park"], ["sat", "ran"], ["park", "mat", "dog"]
SENTENCES = [f"the {n} {v} on the {p}" for n in NOUNS for v in VERBS for p in PLACES]  # 24
FAST = LowShotConfig(batch_size=8, max_length=16, learning_rate=1e-3, epochs=4, eval_steps=4)
DEV = Pairs(
    ["the cat sat", "a big dog ran", "red mat", "blue park and dog"],
    ["a cat sat", "a dog ran", "the blue park", "the cats"],
    np.array([5.0, 4.0, 1.0, 0.0]),
    Provenance("four pairs", "folder", "test", sha256="0" * 64),
)


def model_of(folder):
    return load_model(folder, pooling="cls", device="cpu")


def train(folder, output, sentences=SENTENCES, **settings):
    settings = {"preset": FAST, "dev": DEV, "progress": False, **settings}
    return train_low_shot(sentences, model_of(folder), output=output, **settings)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def difference(first, second):
    """Largest difference of any weight."""
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    """One finished run: what it returned, and its folder."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    return train(tiny_bert, output), output


def test_a_run_keeps_the_best_checkpoint_and_its_history(whole, tiny_bert):
    trained, output = whole
    history = trained.history
    assert history["step"].tolist() == [0, 4, 8, 12]  # 24 sentences, batches of 8, 4 epochs
    assert trained.best == history["spearman"].max()
    assert trained.before == history["spearman"].iloc[0]
    assert history["step"][history["spearman"].idxmax()] == trained.best_step
    assert history.drop(columns=["loss", "info_nce"]).notna().all(axis=None)
    parts = history.iloc[1:]
    assert (parts["loss"] < parts["info_nce"]).all()  # by lambda times the AMI
    np.testing.assert_allclose(parts["loss"], parts["info_nce"], atol=1e-3 * 7)
    assert not (output / "checkpoints").exists()
    record = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert record["config"]["learning_rate"] == 1e-3
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]
    assert difference(weights(model_of(tiny_bert)), weights(trained.model)) > 1e-3


class Scripted(BaseEvaluator):
    """A development evaluator that gives set scores instead of measuring them."""

    def __init__(self, *scores):
        super().__init__()
        self.primary_metric = "dev_spearman"
        self.scores = iter(scores)

    def __call__(self, model, *arguments, **options):
        model.eval()
        return {"dev_spearman": next(self.scores), "dev_alignment": 0.0, "dev_uniformity": 0.0}


def test_the_start_is_kept_where_training_only_does_harm(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "micse_utils.training.run.DevelopmentEvaluator", lambda _: Scripted(60, 50, 55, 40)
    )
    trained = train(tiny_bert, tmp_path / "run")
    assert (trained.best_step, trained.before, trained.best) == (0, 60, 60)
    assert "the start is kept" in str(trained)
    start = weights(model_of(tiny_bert))
    assert difference(start, weights(trained.model)) == 0
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert difference(start, weights(kept)) == 0
    again = train(tiny_bert, tmp_path / "run")
    assert again.best_step == 0 and difference(start, weights(again.model)) == 0


def test_the_authors_choose_only_among_what_comes_after_the_start(tiny_bert, tmp_path, monkeypatch):
    """12 steps, scored after 5 and 10: neither the start nor the last step competes."""
    monkeypatch.setattr(
        "micse_utils.training.run.DevelopmentEvaluator", lambda _: Scripted(60, 50, 55, 99)
    )
    settings = {"eval_steps": 5, "select_from": "authors"}
    trained = train(tiny_bert, tmp_path / "run", **settings)
    assert trained.history["step"].tolist() == [0, 5, 10]
    assert (trained.best_step, trained.before, trained.best) == (10, 60, 55)
    assert difference(weights(model_of(tiny_bert)), weights(trained.model)) > 1e-4
    with pytest.raises(ValueError, match="eval_steps must be at most 12"):
        train(tiny_bert, tmp_path / "none", eval_steps=13, select_from="authors")


def test_the_last_step_competes_too(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "micse_utils.training.run.DevelopmentEvaluator", lambda _: Scripted(60, 50, 55, 99)
    )
    trained = train(tiny_bert, tmp_path / "run", eval_steps=5)
    assert trained.history["step"].tolist() == [0, 5, 10, 12]
    assert trained.best_step == 12
    assert trained.history[["loss", "info_nce"]].iloc[1:].notna().all(axis=None)


def test_the_last_step_is_kept_beside_the_best_checkpoint_if_asked(tiny_bert, tmp_path):
    trained = train(tiny_bert, tmp_path / "run", keep_last=True)
    scores = trained.history.set_index("step")["spearman"]
    evaluate = DevelopmentEvaluator(DEV)
    last = SentenceTransformer(str(tmp_path / "run" / "last"), device="cpu")
    assert evaluate(last)["dev_spearman"] == pytest.approx(scores[12])
    assert trained.best_step != 12  # so the two differ
    assert difference(weights(last), weights(trained.model)) > 1e-5


def test_the_optimiser_is_that_of_the_authors(tiny_bert, tmp_path, monkeypatch):
    """Rate and clipping as the optimiser sees them, at every step."""
    seen = []
    step = torch.optim.AdamW.step

    def record(self, *arguments, **options):
        groups = self.param_groups
        gradients = [p.grad for g in groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        seen.append(([(g["lr"], g["weight_decay"], g["betas"], g["eps"]) for g in groups], norm))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(tiny_bert, tmp_path / "run", steps=4, learning_rate=1e-3)
    for number, (groups, norm) in enumerate(seen):
        expected = pytest.approx(1e-3 * (1 - number / 4)), 0.0, (0.9, 0.999), 1e-8
        assert groups == [expected] * len(groups)
        assert norm <= 1.0001
    assert len(seen) == 4


def test_the_saved_model_is_the_trained_one_and_reads_as_long_as_before(whole, tiny_bert):
    trained, output = whole
    again = SentenceTransformer(str(output / "model"), device="cpu")
    assert difference(weights(again), weights(trained.model)) == 0
    assert again.max_seq_length == model_of(tiny_bert).max_seq_length
    bare = AutoModel.from_pretrained(output / "model").eval()
    tokens = again.tokenizer(["the cat sat"], return_tensors="pt")
    with torch.no_grad():
        cls = bare(**tokens).last_hidden_state[0, 0]
    np.testing.assert_allclose(cls.numpy(), trained.model.encode("the cat sat"), atol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_scored_while_training_is_what_is_kept(tiny_bert, tmp_path, bf16):
    """Also where training computes in bfloat16: scores and AMI never do."""
    settings = {"steps": 4, "eval_steps": 4, "bf16": bf16}
    trained = train(tiny_bert, tmp_path / "run", **settings)
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    figures = DevelopmentEvaluator(DEV)(kept)
    last = trained.history.iloc[-1]
    for name in ("alignment", "uniformity"):
        assert last[name] == pytest.approx(figures[f"dev_{name}"], rel=1e-5)
    loss = MiCSELoss(kept)
    assert last["ami"] == pytest.approx(loss.measure_ami(SENTENCES, max_length=16), rel=1e-5)


def test_what_was_trained_goes_by_a_name_of_its_own(whole, tiny_bert):
    trained, output = whole
    made = trained.model.provenance
    assert made.name == "micse training of tiny-bert" and made.pooling == "cls"
    content = (output / "model" / "model.safetensors").read_bytes()
    assert made.sha256 == hashlib.sha256(content).hexdigest()
    assert load_model(output / "model", pooling="cls").provenance.sha256 == made.sha256


def test_a_model_that_the_kit_did_not_load_is_known_by_its_weights(tiny_bert, tmp_path):
    def own(scale):
        model = model_of(tiny_bert)
        del model.provenance
        with torch.no_grad():
            model.transformers_model.embeddings.word_embeddings.weight.mul_(scale)
        return model

    settings = {"output": tmp_path, "preset": FAST, "dev": DEV, "progress": False, "steps": 1}
    first = train_low_shot(SENTENCES, own(1.0), **settings)
    again = train_low_shot(SENTENCES, own(1.0), **settings)
    assert difference(weights(again.model), weights(first.model)) == 0
    with pytest.raises(ValueError, match="with other base_model"):
        train_low_shot(SENTENCES, own(1.1), **settings)


def test_a_finished_run_is_only_loaded(whole, tiny_bert, tmp_path):
    trained, output = whole
    shutil.copytree(output, tmp_path / "copy")
    record = tmp_path / "copy" / "training.json"
    stamp = record.stat().st_mtime_ns
    again = train(tiny_bert, tmp_path / "copy")
    assert difference(weights(again.model), weights(trained.model)) == 0
    pd.testing.assert_frame_equal(again.history, trained.history)
    assert record.stat().st_mtime_ns == stamp


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(whole, tiny_bert, tmp_path):
    trained, _ = whole
    assert difference(weights(train(tiny_bert, tmp_path / "a").model), weights(trained.model)) == 0
    other = train(tiny_bert, tmp_path / "b", seed=49)
    assert difference(weights(other.model), weights(trained.model)) > 1e-4


def test_simcse_is_micse_without_attention(whole, tiny_bert, tmp_path):
    trained, _ = whole
    simcse = train(tiny_bert, tmp_path / "simcse", method="simcse")
    assert simcse.history["ami"].iloc[0] == trained.history["ami"].iloc[0]
    np.testing.assert_allclose(simcse.history["loss"], simcse.history["info_nce"], atol=1e-4)
    weightless = train(tiny_bert, tmp_path / "weightless", ami_weight=0.0)
    assert difference(weights(simcse.model), weights(weightless.model)) == 0
    assert difference(weights(simcse.model), weights(trained.model)) > 0


def test_another_run_does_not_get_the_folder(whole, tiny_bert):
    _, output = whole
    with pytest.raises(ValueError, match="other learning_rate"):
        train(tiny_bert, output, learning_rate=5e-4)
    with pytest.raises(ValueError, match="with other sentences, sentences_sha256"):
        train(tiny_bert, output, sentences=SENTENCES[:20])


def test_a_damaged_record_of_a_run_is_one_sentence_and_can_be_overwritten(
    whole, tiny_bert, tmp_path
):
    _, output = whole
    shutil.copytree(output, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        train(tiny_bert, tmp_path / "run")
    again = train(tiny_bert, tmp_path / "run", steps=1, overwrite=True)
    assert again.history["step"].tolist() == [0, 1]


def test_a_folder_in_place_of_a_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it"):
        read_sentences(tmp_path)


def test_another_run_is_overwritten_where_that_is_said(whole, tiny_bert, tmp_path):
    _, output = whole
    shutil.copytree(output, tmp_path / "run")
    again = train(tiny_bert, tmp_path / "run", steps=1, overwrite=True)
    assert again.history["step"].tolist() == [0, 1]
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert difference(weights(kept), weights(again.model)) == 0


def test_sentences_that_the_model_cannot_tell_apart_are_trained_on_once(
    tiny_bert, tmp_path, capsys
):
    long = "the cat sat on the mat and the dog ran on the park"
    same = [SENTENCES[0], f" {SENTENCES[1].upper()} ", f"{long} and sat", f"{long} and ran"]
    sentences = [*SENTENCES, *same, "", "  \t", "\u200b"]
    trained = train(tiny_bert, tmp_path / "run", sentences=sentences, steps=1, max_length=12)
    assert trained.sentences == len(SENTENCES) + 1
    said = capsys.readouterr().out
    for report in ("2 of 31 sentences are longer", "3 of 31 sentences are blank", "3 of 31"):
        assert report in said


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sentences": []}, ValueError, r"there are no sentences to train on"),
        ({"sentences": ["", " "]}, ValueError, r"there are no sentences to train on"),
        ({"sentences": ["a"]}, ValueError, r"needs 2 sentences or more, got 1"),
        ({"sentences": "a cat"}, TypeError, r"sentences must be a list"),
        ({"sentences": ["a", None]}, TypeError, r"sentences\[1\] must be"),
        ({"learning_rate": float("nan")}, ValueError, r"learning_rate must be"),
        ({"max_layer": 9}, ValueError, r"layers 0 to 9 \(not included\) are no range"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    tiny_bert, tmp_path, arguments, error, message
):
    with pytest.raises(error, match=message):
        train(tiny_bert, tmp_path / "run", **arguments)


def test_a_loss_that_is_no_number_stops_and_keeps_the_best_checkpoint(tiny_bert, tmp_path):
    """The model itself breaks at the seventh step: from then on its vectors are NaN."""
    model = model_of(tiny_bert)
    calls = 0

    def break_down(module, inputs, output):
        nonlocal calls
        training = module.training and torch.is_grad_enabled()
        calls += training
        return output * float("nan") if calls > 6 and training else output

    model.transformers_model.embeddings.register_forward_hook(break_down)
    with pytest.raises(TrainingDivergedError, match=r"are nan at step 7: .* of step 4"):
        train_low_shot(SENTENCES, model, output=tmp_path, preset=FAST, dev=DEV, progress=False)
    kept = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert difference(weights(kept), weights(model)) == 0
    assert all(tensor.isfinite().all() for tensor in weights(kept).values())


# --- From a shell


def command(file, output, model, *options):
    return [
        "train", str(file), "--output", str(output), "--model", str(model), "--method", "micse",
        "--batch-size", "8", "--learning-rate", "1e-3", "--min-layer", "0", "--max-layer", "2",
        *options,
    ]  # fmt: skip


@pytest.fixture
def environment(monkeypatch, tmp_path_factory):
    """No hub, and a SentEval folder with the pairs of `DEV`."""
    folder = tmp_path_factory.mktemp("senteval")
    file = folder / "STS" / "STSBenchmark" / "sts-dev.csv"
    file.parent.mkdir(parents=True)
    rows = zip(DEV.gold, DEV.first, DEV.second, strict=True)
    file.write_text(
        "".join(f"g\tf\ty\t0\t{gold}\t{a}\t{b}\n" for gold, a, b in rows), encoding="utf-8"
    )
    monkeypatch.setenv("MICSE_SENTEVAL", str(folder))
    monkeypatch.setenv("MICSE_DEVICE", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return os.environ.copy()


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_the_command_line_trains_on_the_users_own_file(
    tiny_bert, tmp_path, environment, capsys, suffix
):
    file = tmp_path / f"mine{suffix}"
    table = pd.DataFrame({"number": range(24), "text": SENTENCES})
    if suffix == ".txt":
        file.write_text("\n".join(SENTENCES), encoding="utf-8")
    elif suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file)
    column = () if suffix == ".txt" else ("--column", "text")
    call = command(file, tmp_path / "run", tiny_bert, "--steps", "2", *column)
    assert main(call) == 0
    assert "before" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.csv", b"text,n\nhello,1\n", "sentence", 'has no column "sentence"'),
        ("a.csv", b"", None, "a.csv is empty"),
        ("a.txt", b"caf\xe9\n", None, "a.txt is not UTF-8; convert it first"),
        ("a.csv", b"text\ncaf\xe9\n", "text", "a.csv is not UTF-8; convert it first"),
        ("a.parquet", b"no parquet", "text", "a.parquet cannot be read"),
        ("a.docx", b"", None, "must be or hold .parquet, .csv"),
        ("a.txt", b"\n \n", None, "a.txt holds no sentences"),
        ("a.txt", b"one\n", None, "needs 2 sentences or more, got 1"),
        (None, b"", None, 'missing.txt" does not exist'),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tiny_bert, tmp_path, environment, capsys, name, content, column, message
):
    file = tmp_path / (name or "missing.txt")
    if name:
        file.write_bytes(content)
    call = command(file, tmp_path / "run", tiny_bert, *(("--column", column) if column else ()))
    assert main(call) == 1
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    tiny_bert, tmp_path, environment, capsys, monkeypatch
):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("micse_utils.training.trainer.train_low_shot", stop)
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    assert main(command(tmp_path / "mine.txt", tmp_path / "run", tiny_bert)) == 130
    assert "Run the same command again to resume." in capsys.readouterr().err


def in_shell(call, environment, said, most):
    """The command line as a process of its own; what it says goes into the file `said`."""
    os.environ.update(environment)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.exit(main(call))


@pytest.fixture
def shell(processes, environment, tmp_path):
    """Starts the command line; returns the process and the file with what it says.

    With `most`, its files may have so many bytes: a real limit, as of a full disk.
    """

    def start(call, most=None):
        said = tmp_path / "said.txt"
        process = processes.Process(target=in_shell, args=(call, environment, said, most))
        process.start()
        return process, said

    return start


def finish(process, said):
    """Wait for the command line; returns its exit status and what it said."""
    process.join()
    return process.exitcode, said.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tiny_bert, tmp_path, shell):
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    steps = ("--steps", "36", "--eval-steps", "3")

    def call(output):
        return command(tmp_path / "mine.txt", tmp_path / output, tiny_bert, *steps)

    status, said = finish(*shell(call("whole")))
    assert status == 0, said
    kills, chance = 0, random.Random(0)
    for attempt in range(1, 3):
        process, _ = shell(call("killed"))
        checkpoints = tmp_path / "killed" / "checkpoints"
        while process.is_alive() and not any(
            int(folder.name.split("-")[1]) >= 12 * attempt
            for folder in checkpoints.glob("checkpoint-*")
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 2
    # It resumes neither from a checkpoint that a kill left unfinished, nor from one whose weights
    # or optimiser lost their end in a power cut.
    whole = next(checkpoints.glob(f"checkpoint-*/{run.HEAD}")).parent
    (checkpoints / "checkpoint-97").mkdir()
    for step, name in ((98, "model.safetensors"), (99, "optimizer.pt")):
        file = shutil.copytree(whole, checkpoints / f"checkpoint-{step}") / name
        file.write_bytes(file.read_bytes()[:-100])
    status, said = finish(*shell(call("killed")))
    assert status == 0 and "before" in said, said

    folders = tmp_path / "whole", tmp_path / "killed"
    records = [
        json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in folders
    ]
    assert records[0]["best_step"] == records[1]["best_step"]
    spearman = [[row["spearman"] for row in record["history"]] for record in records]
    assert spearman[0] == spearman[1]
    first, second = (SentenceTransformer(str(f / "model"), device="cpu") for f in folders)
    assert difference(weights(first), weights(second)) == 0


def train_and_die(place, folder, output):
    """Train in a process of its own that dies at one of four places near the end."""
    keep = run.write_json

    def die(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    match place:
        case 0:
            SentenceTransformer.save_pretrained = die
        case 1:
            shutil.copy = shutil.move = PreTrainedTokenizerBase.save_pretrained = die
        case 2:
            run.write_json = lambda f, r: die() if f.name == run.RECORD else keep(f, r)
        case 3:
            shutil.rmtree = die
    train(folder, output)


@pytest.mark.slow
def test_a_run_killed_while_its_end_is_written_still_ends_with_the_same_weights(
    whole, tiny_bert, tmp_path, processes
):
    """It dies before the model is saved, half-way through, before the record, and after it."""
    trained, output = whole
    for place in range(4):
        process = processes.Process(target=train_and_die, args=(place, tiny_bert, tmp_path / "run"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, place
    again = train(tiny_bert, tmp_path / "run")
    assert difference(weights(again.model), weights(trained.model)) == 0
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert difference(weights(kept), weights(trained.model)) == 0
    pd.testing.assert_frame_equal(again.history, trained.history)
    assert (tmp_path / "run" / "training.json").is_file() and (output / "training.json").is_file()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tiny_bert, tmp_path, environment, shell):
    """SimCSE (AMI is of each process's own rows), without dropout, drawn by each for itself."""
    config = json.loads((tiny_bert / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    shutil.copytree(tiny_bert, tmp_path / "sober")
    (tmp_path / "sober" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    one, two = (
        command(
            tmp_path / "mine.txt",
            tmp_path / output,
            tmp_path / "sober",
            "--steps",
            "6",
            "--method",
            "simcse",
        )
        for output in ("one", "two")
    )
    status, said = finish(*shell(one))
    assert status == 0, said
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "micse_utils", *two],
        env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("before") == 1
    folders = tmp_path / "one" / "model", tmp_path / "two" / "model", tmp_path / "sober"
    first, second, start = (SentenceTransformer(str(f), device="cpu") for f in folders)
    assert difference(weights(first), weights(start)) > 1e-3
    assert difference(weights(first), weights(second)) < 1e-4


def contents(folder):
    """Every file below a folder, byte for byte; of a link, where it leads."""
    return {
        path.relative_to(folder).as_posix(): path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "training.json",
        "model/weights.bin",
        "checkpoints/checkpoint-5/notes.txt",
        ".model/a",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_users_own_file_is_refused_before_training_and_left_as_it_is(
    tiny_bert, tmp_path, name, overwrite
):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=Path(name).name):
        train(tiny_bert, tmp_path, overwrite=overwrite)
    assert {name: contents(tmp_path)[name] for name in before} == before


def test_a_linked_folder_of_checkpoints_is_not_followed(tiny_bert, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "old")
    with pytest.raises(FileExistsError, match="checkpoints"):
        train(tiny_bert, tmp_path / "run")
    assert not list((tmp_path / "old").iterdir())


def test_files_beside_a_run_stay_whatever_happens_to_it(whole, tiny_bert, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    for name in (".env", "notes.txt", "checkpoint-1", "models/model.safetensors"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine", encoding="utf-8")
    train(tiny_bert, run, steps=1, overwrite=True)
    after = contents(run)
    for name in (".env", "notes.txt", "checkpoint-1", "models/model.safetensors"):
        assert after[name] == b"mine"
    (run / "model" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        train(tiny_bert, run, steps=2, overwrite=True)
    assert {**contents(run), "model/notes.txt": b""} == {**after, "model/notes.txt": b""}


def test_two_runs_do_not_share_a_folder(tiny_bert, tmp_path):
    with claimed(tmp_path, []), pytest.raises(FileExistsError, match="another run"):
        train(tiny_bert, tmp_path)
    assert train(tiny_bert, tmp_path, steps=1).history["step"].tolist() == [0, 1]


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_next_call_finishes(tiny_bert, tmp_path, shell):
    """By a real limit: no file may grow beyond what the test allows."""
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    call = command(tmp_path / "mine.txt", tmp_path / "run", tiny_bert, "--steps", "6")
    weights = (tiny_bert / "model.safetensors").stat().st_size
    for most in (weights // 2, weights * 3 // 2):  # too little for weights; for the optimiser
        status, said = finish(*shell(call, most))
        assert status == 1, (most, said)
        assert "Traceback" not in said
        assert re.search("too large|os error 27|disk full", said)
    status, said = finish(*shell(call))
    assert status == 0, said
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_size > weights / 2
