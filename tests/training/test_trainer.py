"""The trainer on a tiny BERT: what it keeps, resumes, refuses and shares between processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers import AutoModel, BertweetTokenizer

from micse_utils.cli import main
from micse_utils.datasets.sts import Pairs
from micse_utils.encoding import encode
from micse_utils.evaluation.gain import load_untouched
from micse_utils.models import load_model
from micse_utils.provenance import Provenance
from micse_utils.training import losses
from micse_utils.training.config import LowShotConfig
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.monitor import (
    COMPLETE,
    DevelopmentEvaluator,
    Monitor,
    TrainingDivergedError,
)
from micse_utils.training.trainer import train_low_shot

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
    assert "- generated_from_trainer\n" in (output / "model/README.md").read_text("utf-8")
    record = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert record["learning_rate"] == 1e-3 and record["versions"]["torch"]
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
        "micse_utils.training.monitor.DevelopmentEvaluator", lambda _: Scripted(60, 50, 55, 40)
    )
    trained = train(tiny_bert, tmp_path / "run")
    assert (trained.best_step, trained.before, trained.best) == (0, 60, 60)
    assert "the start is kept" in str(trained)
    start = weights(model_of(tiny_bert))
    assert difference(start, weights(trained.model)) == 0
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert difference(start, weights(kept)) == 0
    assert "generated_from_trainer" not in (tmp_path / "run/model/README.md").read_text("utf-8")


def test_the_last_partial_batch_is_used_and_only_training_cuts(tiny_bert, tmp_path, monkeypatch):
    shapes, plain = [], losses.two_views

    def counted(features):
        shapes.append(tuple(features["input_ids"].shape))
        return plain(features)

    monkeypatch.setattr(losses, "two_views", counted)
    sentences = [f"{sentence} and on" for sentence in SENTENCES[:20]]  # of 10 tokens
    trained = train(tiny_bert, tmp_path / "run", sentences=sentences, epochs=2, max_length=8)
    # Where AMI is measured, all are one batch.
    assert [shape for shape in shapes if shape[0] < 20] == 2 * [(8, 8), (8, 8), (4, 8)]
    whole = DevelopmentEvaluator(DEV)(model_of(tiny_bert))
    assert trained.history["uniformity"].iloc[0] == pytest.approx(whole["dev_uniformity"])


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
    made = trained.model.provenance
    assert (made.name, made.pooling) == ("micse training of tiny-bert", "cls")
    assert load_model(output / "model", pooling="cls").provenance.sha256 == made.sha256
    bare = AutoModel.from_pretrained(output / "model").eval()
    tokens = again.tokenizer(["the cat sat"], return_tensors="pt")
    with torch.no_grad():
        cls = bare(**tokens).last_hidden_state[0, 0]
    np.testing.assert_allclose(cls.numpy(), trained.model.encode("the cat sat"), atol=1e-5)


def test_what_is_scored_while_training_is_what_is_kept(tiny_bert, tmp_path):
    """Also where training computes in bfloat16: scores and AMI never do."""
    trained = train(tiny_bert, tmp_path / "run", steps=4, eval_steps=4, bf16=True)
    kept = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    figures = DevelopmentEvaluator(DEV)(kept)
    last = trained.history.iloc[-1]
    for name in ("alignment", "uniformity"):
        assert last[name] == pytest.approx(figures[f"dev_{name}"], rel=1e-5)
    loss = MiCSELoss(kept)
    assert last["ami"] == pytest.approx(loss.measure_ami(SENTENCES, max_length=16), rel=1e-5)


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
    with pytest.raises(ValueError, match="differing in base_model"):
        train_low_shot(SENTENCES, own(1.1), **settings)


def test_simcse_is_micse_without_attention(whole, tiny_bert, tmp_path):
    trained, _ = whole
    simcse = train(tiny_bert, tmp_path / "simcse", method="simcse")
    assert simcse.history["ami"].iloc[0] == trained.history["ami"].iloc[0]
    np.testing.assert_allclose(simcse.history["loss"], simcse.history["info_nce"], atol=1e-4)
    weightless = train(tiny_bert, tmp_path / "weightless", ami_weight=0.0)
    assert difference(weights(simcse.model), weights(weightless.model)) == 0
    assert difference(weights(simcse.model), weights(trained.model)) > 0


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


def test_an_unknown_script_is_counted_and_if_it_is_most_refused(tiny_bert, tmp_path, capsys):
    amharic = [f"{chr(0x1200 + n)}{chr(0x1230 + n)} {chr(0x1210 + n)}" for n in range(30)]
    trained = train(tiny_bert, tmp_path / "run", sentences=[*SENTENCES, *amharic[:6]], steps=1)
    assert trained.sentences == len(SENTENCES) + 1  # the six are one to the model
    assert "6 of 30 sentences are mostly unknown to the tokeniser" in capsys.readouterr().out
    with pytest.raises(ValueError, match="30 of 54 sentences are mostly unknown to the tokeniser"):
        train(tiny_bert, tmp_path / "none", sentences=[*SENTENCES, *amharic])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sentences": ["", " "]}, ValueError, "sentences must be 2 different ones or more, got 0"),
        ({"sentences": ["a", None]}, TypeError, r"sentences\[1\] must be"),
        ({"max_length": 65}, ValueError, r"max_length must be from 3 to 64"),
        ({"max_layer": 9}, ValueError, r"layers 0 to 9 \(not included\) must be"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    tiny_bert, tmp_path, arguments, error, message
):
    with pytest.raises(error, match=message):
        train(tiny_bert, tmp_path / "run", **arguments)


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tiny_bert, tmp_path):
    """The model itself breaks at the seventh step: from then on its vectors are NaN."""
    model = model_of(tiny_bert)
    calls = 0

    def break_down(module, inputs, output):
        nonlocal calls
        training = module.training and torch.is_grad_enabled()
        calls += training
        return output * float("nan") if calls > 6 and training else output

    model.transformers_model.embeddings.register_forward_hook(break_down)
    with pytest.raises(TrainingDivergedError, match=r"are nan at step 7: lower learning_rate"):
        train_low_shot(SENTENCES, model, output=tmp_path, preset=FAST, dev=DEV, progress=False)
    assert all(tensor.isfinite().all() for tensor in weights(model).values())
    assert (tmp_path / "checkpoints" / "checkpoint-4" / "model.safetensors").exists()


# --- The folder


def test_a_finished_run_is_only_loaded_and_a_different_one_refused(whole, tiny_bert, tmp_path):
    trained, output = whole
    run = shutil.copytree(output, tmp_path / "run")
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    stamp = (run / "training.json").stat().st_mtime_ns
    again = train(tiny_bert, run)
    assert difference(weights(again.model), weights(trained.model)) == 0
    pd.testing.assert_frame_equal(again.history, trained.history)
    assert (run / "training.json").stat().st_mtime_ns == stamp
    for settings in ({"learning_rate": 5e-4}, {"sentences": SENTENCES[:20]}, {"seed": 1}):
        with pytest.raises(ValueError, match=f"differing in {next(iter(settings))}"):
            train(tiny_bert, run, **settings)
    other = train(tiny_bert, run, steps=1, overwrite=True)
    assert other.history["step"].tolist() == [0, 1]
    kept = SentenceTransformer(str(run / "model"), device="cpu")
    assert difference(weights(kept), weights(other.model)) == 0
    assert (run / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_users_own_folder_is_refused_and_left_as_it_is(tiny_bert, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="no marker of the kit"):
        train(tiny_bert, tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["notes.txt"]


def damage(file):
    """What a power cut leaves: the file has its length, and zeros in place of its middle."""
    content = bytearray(file.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    file.write_bytes(content)


def test_a_finished_model_with_damaged_weights_is_refused(whole, tiny_bert, tmp_path):
    run = shutil.copytree(whole[1], tmp_path / "run")
    damage(run / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="model was damaged or changed after training"):
        train(tiny_bert, run)


def train_and_die(folder, output, step):
    """Train in a process of its own that is killed after it has taken so many steps."""
    Monitor.on_step_end = lambda self, args, state, *rest, **options: (
        os.kill(os.getpid(), signal.SIGKILL) if state.global_step == step else None
    )
    train(folder, output, eval_steps=2)


def test_a_killed_run_resumes_past_unfinished_checkpoints_and_ends_bit_equal(
    tiny_bert, tmp_path, processes, monkeypatch
):
    whole = train(tiny_bert, tmp_path / "whole", eval_steps=2)
    run = tmp_path / "killed"
    process = processes.Process(target=train_and_die, args=(tiny_bert, run, 7))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    newest = run / "checkpoints" / "checkpoint-6"
    copy = shutil.copytree(newest, newest.with_name("checkpoint-90"))
    (copy / COMPLETE).unlink()
    damage(copy / "model.safetensors")
    half = shutil.copytree(newest, newest.with_name("checkpoint-91"))  # killed while it is deleted
    (half / "optimizer.pt").unlink()
    steps = []
    go_on = Monitor.on_step_end

    def counted(self, args, state, *rest, **options):
        steps.append(state.global_step)
        go_on(self, args, state, *rest, **options)

    monkeypatch.setattr(Monitor, "on_step_end", counted)
    again = train(tiny_bert, run, eval_steps=2)
    assert steps == list(range(7, 13))
    assert difference(weights(again.model), weights(whole.model)) == 0
    pd.testing.assert_frame_equal(again.history, whole.history)
    assert sorted(path.name for path in run.iterdir() if path.name[0] != ".") == [
        "model", "training.json",
    ]  # fmt: skip


def test_a_run_stopped_before_its_first_checkpoint_says_that_it_starts_again(
    whole, tiny_bert, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Monitor, "on_step_end", Mock(side_effect=RuntimeError))
        train(tiny_bert, tmp_path)
    again = train(tiny_bert, tmp_path)
    assert "saved: starting again from step 0\n" in capsys.readouterr().out
    assert difference(weights(again.model), weights(whole[0].model)) == 0


def test_a_run_stopped_before_it_is_saved_is_only_finished(tiny_bert, tmp_path, monkeypatch):
    """Its last step is its best one: all earlier checkpoints it would need are deleted."""
    scripted = Scripted(60, 65, 62, 70)  # and no more, so that it cannot be evaluated again
    monkeypatch.setattr("micse_utils.training.monitor.DevelopmentEvaluator", lambda _: scripted)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop = Mock(side_effect=KeyboardInterrupt)
        patch.setattr("micse_utils.training.run.Training._finish", stop)
        train(tiny_bert, tmp_path)
    last = SentenceTransformer(str(tmp_path / "checkpoints" / "checkpoint-12"), device="cpu")
    again = train(tiny_bert, tmp_path)
    assert (again.best_step, again.history["spearman"].tolist()) == (12, [60, 65, 62, 70])
    assert difference(weights(again.model), weights(last)) == 0


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


def rows_of(printed):
    """The cells of the table that the command prints, by row."""
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[0] == "|"]
    return {name: list(map(float, cells)) for name, *cells in lines[2:]}


def test_the_command_compares_start_and_trained_with_the_untouched_encoder(
    tiny_bert, tmp_path, environment, capsys
):
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    run = tmp_path / "run"
    call = command(tmp_path / "mine.txt", run, tiny_bert, "--steps", "2", "--pooling", "mean")
    assert main(call) == 0
    said = capsys.readouterr().out
    rows = rows_of(said)
    names = ["untouched: tiny-bert, cls", "start: tiny-bert, mean"]
    assert list(rows)[:2] == names and len(rows) == 3
    for name, pooling in zip(names, ("cls", "mean"), strict=True):
        model = load_model(tiny_bert, pooling=pooling, device="cpu")
        assert rows[name][0] == pytest.approx(
            DevelopmentEvaluator(DEV)(model)["dev_spearman"], abs=0.006
        )
    best = max(rows.values(), key=lambda cells: cells[0])
    kept = SentenceTransformer(str(run / "model"), device="cpu")
    assert DevelopmentEvaluator(DEV)(kept)["dev_spearman"] == pytest.approx(best[0], abs=0.006)
    assert main(call) == 0 and capsys.readouterr().out == said  # it is read from the record

    assert main(["score", str(run), "--source", "package", "--output", str(tmp_path / "s")]) == 0
    assert "| untouched: tiny-bert, cls | " in capsys.readouterr().out


def test_a_model_that_training_did_not_keep_is_scored_alone(tmp_path, capsys):
    found_at = {"name": str(tmp_path / "gone"), "sha256": "1"}
    record = {"untouched": found_at, "weights": {"model.safetensors": "2"}}
    (tmp_path / "training.json").write_text(json.dumps(record), encoding="utf-8")
    for sha256, said in {"3": "was changed after training", "2": "no model folder"}.items():
        assert load_untouched(str(tmp_path), sha256) == []
        assert said in capsys.readouterr().out


def test_the_untouched_encoder_is_kept_if_nothing_is_better(
    tiny_bert, tmp_path, environment, capsys, monkeypatch
):
    """The untouched one alone has vectors that rank the pairs."""
    monkeypatch.setattr(
        "micse_utils.training.monitor.DevelopmentEvaluator", lambda _: Scripted(60, 50, 40, 30)
    )
    scores = iter([90.0, 60.0, 50.0])
    monkeypatch.setattr(
        "micse_utils.evaluation.gain.scores_of",
        lambda model, sets: {name: np.full((1, 3), next(scores)) for name in [*sets][:1]},
    )
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    options = ["--steps", "6", "--eval-steps", "2", "--pooling", "mean"]
    assert main(command(tmp_path / "mine.txt", tmp_path / "run", tiny_bert, *options)) == 0
    assert "trained is in" in capsys.readouterr().out
    kept = load_model(tmp_path / "run" / "model", device="cpu")
    assert difference(weights(kept), weights(load_model(tiny_bert, device="cpu"))) == 0
    assert kept.provenance.pooling == "cls"
    assert (tmp_path / "run" / "trained").exists()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tiny_bert, tmp_path, environment):
    """SimCSE (AMI is of each process's own rows), without dropout, drawn by each for itself."""
    config = json.loads((tiny_bert / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    shutil.copytree(tiny_bert, tmp_path / "sober")
    (tmp_path / "sober" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    options = ["--steps", "6", "--method", "simcse"]
    one, two = (
        command(tmp_path / "mine.txt", tmp_path / output, tmp_path / "sober", *options)
        for output in ("one", "two")
    )
    assert main(one) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "micse_utils", *two],
        env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("untouched: ") == 1
    folders = tmp_path / "one" / "model", tmp_path / "two" / "model", tmp_path / "sober"
    first, second, start = (SentenceTransformer(str(f), device="cpu") for f in folders)
    assert difference(weights(first), weights(start)) > 1e-3
    assert difference(weights(first), weights(second)) < 1e-4


def test_a_tokenizer_without_a_fast_version_counts_what_is_cut(tiny_bert, tmp_path, capsys):
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [letter + end for end in ("@@", "") for letter in letters]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    (tmp_path / "bpe.codes").write_text("#version: 0.2\n")
    tokenizer = BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"))
    folder = shutil.copytree(tiny_bert, tmp_path / "slow")
    (folder / "tokenizer.json").unlink()
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="12 of 24 texts are longer than max_length=19 tokens"):
        encode(model_of(folder), SENTENCES, max_length=19)
    train(folder, tmp_path / "run", steps=1, max_length=19)
    assert "12 of 24 sentences are longer than max_length=19 tokens" in capsys.readouterr().out
