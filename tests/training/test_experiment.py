"""The experiment on a tiny BERT of twelve layers: from the command line to the report."""

import itertools
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from transformers import BertConfig, BertModel

from micse_utils.cli import main
from micse_utils.datasets.sts import YEARS, load_sts, load_stsb
from micse_utils.evaluation import metrics
from micse_utils.evaluation.reported import leaked
from micse_utils.results import json_or_none
from micse_utils.training import experiment, run_table
from micse_utils.training.config import LowShotConfig
from micse_utils.training.monitor import TrainingDivergedError
from micse_utils.training.report import SEVEN, _learning_curve, search_table

WORDS = ["cat", "dog", "mat", "park", "sat", "ran", "red", "blue", "big"]
TEXTS = [f"the {a} and the {b} {c}" for a, b, c in itertools.permutations(WORDS, 3)]
SEEDS, OBJECTIVES = (48, 49), ("miCSE", "SimCSE")
REAL = Path(os.environ.get("MICSE_SENTEVAL") or "none")


def pairs_of(first, count=40):
    """Rated pairs: the more words they share, the higher the score."""
    for n in range(first, first + count):
        one, other = TEXTS[n], TEXTS[(7 * n) % len(TEXTS)]
        yield one, other, len({*one.split()} & {*other.split()}) - (n % 2) / 2


def write(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def senteval(tmp_path_factory):
    """SentEval's folder with STS-B dev, STS16, of which five pairs are in it, and SICK trial."""
    folder = tmp_path_factory.mktemp("senteval")
    dev = [f"g\tf\ty\t0\t{score}\t{one}\t{other}" for one, other, score in pairs_of(0)]
    write(folder / "STS/STSBenchmark/sts-dev.csv", dev)
    for number, subset in enumerate(YEARS["STS16"]):
        pairs = list(pairs_of(100 + 50 * number)) + list(pairs_of(number, 1))
        place = folder / "STS/STS16-en-test"
        write(place / f"STS.input.{subset}.txt", [f"{one}\t{other}" for one, other, _ in pairs])
        write(place / f"STS.gs.{subset}.txt", [score for *_, score in pairs])
    sick = [f"{n}\t{a}\t{b}\t{score}\tx" for n, (a, b, score) in enumerate(pairs_of(400))]
    write(folder / "SICK/SICK_trial.txt", ["pair_ID\tA\tB\tscore\tx", *sick])
    return folder


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    """A folder with sentences and, as bert-base-uncased, a BERT of twelve tiny layers."""
    folder = tmp_path_factory.mktemp("source")
    model = folder / "bert-base-uncased"
    shutil.copytree(tiny_bert, model)
    BertModel(BertConfig.from_pretrained(tiny_bert, num_hidden_layers=12)).save_pretrained(model)
    write(folder / "sentences.txt", TEXTS)
    return folder


@pytest.fixture(autouse=True, scope="module")
def here(senteval):
    forget()  # what other modules have loaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICSE_SENTEVAL", str(senteval))
        patch.setenv("MICSE_DEVICE", "cpu")
        patch.setattr(run_table, "QUICK_STEPS", 3)
        yield


@pytest.fixture(autouse=True)
def forgotten():
    yield
    forget()


@pytest.fixture(scope="module")
def in_turn(bert, here, tmp_path_factory):
    """Table of two runs that nothing interrupted, one after the other."""
    out = tmp_path_factory.mktemp("in_turn") / "out"
    assert reproduce(out, bert, "--seeds", 48) == 0
    return pd.read_csv(out / "runs.csv")


def forget():
    for cached in (experiment.load_dev, experiment.load_tasks, experiment.load_sentences_of):
        cached.cache_clear()


def reproduce(folder, source, *more):
    call = ["reproduce", folder, "--quick", "--starts", "bert", "--source", source, *more]
    return main([str(part) for part in call])


@pytest.fixture
def calls(monkeypatch):
    """Method and data seed of every training; an entry of `stop` is raised at such a call."""
    seen, stop, train = [], {}, experiment.train_low_shot
    monkeypatch.setattr(metrics, "RESAMPLES", 100)  # how wide intervals are is not tested here

    def counted(sentences, model, method, **options):
        at = (len(sentences), method, sum(call[:2] == (len(sentences), method) for call in seen))
        seen.append(at)
        if at in stop:
            raise stop[at]
        return train(sentences, model, method, **options)

    monkeypatch.setattr(experiment, "train_low_shot", counted)
    return seen, stop


def test_tables_and_report_are_those_of_the_runs(bert, tmp_path, calls, capsys):
    out = tmp_path / "out"
    assert reproduce(out, bert, "--sizes", 64, 100) == 0
    assert len(calls[0]) == 8  # two sizes, objectives and seeds
    said = capsys.readouterr()
    assert "8 runs, 0 of them finished" in said.err
    runs = pd.read_csv(out / "runs.csv")
    assert set(runs["task"]) == {
        "STS-B dev", "STS16", "STS16 without dev pairs", "SICK trial", "Lee",
    }  # fmt: skip
    assert runs["checkpoint"].iloc[0] == "untrained"
    trained = runs[runs["checkpoint"] != "untrained"]
    counts = trained.groupby(["objective", "size", "seed", "checkpoint", "task"]).size()
    assert len(counts) == 2 * 2 * 2 * 2 * 5 and (counts == 1).all()

    # By hand: means, differences of means, seeds won, and what the report prints of them.
    report = (out / "report.md").read_text(encoding="utf-8")
    differences = pd.read_csv(out / "differences.csv")
    means = pd.read_csv(out / "means.csv").set_index(["size", "objective", "checkpoint", "task"])
    untrained = runs[runs["checkpoint"] == "untrained"].set_index("task")["score"]
    for size, checkpoint, task in itertools.product(
        (64, 100), ("selected", "last"), untrained.index
    ):
        part = trained[
            (trained["size"] == size) & (trained["checkpoint"] == checkpoint)
            & (trained["task"] == task)
        ]  # fmt: skip
        of_seeds = part.pivot_table("score", "seed", "objective").loc[list(SEEDS)]
        mine, other = (of_seeds[objective].to_numpy() for objective in OBJECTIVES)
        for objective, scores in zip(OBJECTIVES, (mine, other), strict=True):
            assert means.loc[(size, objective, checkpoint, task), "score"] == pytest.approx(
                scores.mean()
            )
            if not task.endswith("pairs"):
                row = next(
                    line
                    for line in report.split(f"### {size} sentences")[1].splitlines()
                    if line.startswith(f"| bert: {objective}, {checkpoint} ")
                )
                assert f" {scores.mean():.2f} " in row
        if task != "STS-B dev":
            for less, subtracted in (("SimCSE", other), ("untrained", untrained[task])):
                [row] = differences[
                    (differences["size"] == size) & (differences["checkpoint"] == checkpoint)
                    & (differences["task"] == task) & (differences["objective"] == "miCSE")
                    & (differences["less"] == less)
                ].to_dict("records")  # fmt: skip
                assert row["difference"] == pytest.approx((mine - subtracted).mean(), abs=1e-4)
                assert row["won"] == (mine - subtracted > 1e-6).sum() and row["seeds"] == 2
                figures = (f"{row[name]:+.2f}" for name in ("difference", "low", "high"))
                assert f" {' '.join([task, *figures])} " in " ".join(report.split())
    assert f"| {untrained['STS16']:.2f} |" in report and "learning_curve.png" in report
    assert (out / "learning_curve.png").stat().st_size > 5_000

    # Again, with one more size: what is finished is not trained again.
    earlier = {file.name: file.read_bytes() for file in (out / "runs").glob("*.json")}
    more = ["--sizes", 64, 100, 500, "--seeds", 48, "--objectives", "simcse"]
    assert reproduce(out, bert, *more) == 0
    assert [call[0] for call in calls[0][8:]] == [500]
    assert all((out / "runs" / name).read_bytes() == old for name, old in earlier.items())


def test_an_interrupted_experiment_resumes_to_the_same_tables(bert, in_turn, tmp_path, calls):
    _, stop = calls
    stop[64, "simcse", 0] = KeyboardInterrupt()
    assert reproduce(tmp_path / "a", bert, "--seeds", 48) == 130
    assert len(list((tmp_path / "a" / "runs").glob("bert-*.json"))) == 1
    stop.clear()
    [finished] = (tmp_path / "a" / "runs").glob("bert-*.json")
    finished.with_name(f".{finished.stem}").mkdir()  # left by a kill before it was deleted
    assert reproduce(tmp_path / "a", bert, "--seeds", 48) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a" / "runs.csv"), in_turn)
    assert not list((tmp_path / "a" / "runs").glob(".bert*"))  # the checkpoints are gone


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(bert, tmp_path, calls, capsys):
    calls[1][64, "micse", 1] = TrainingDivergedError("the loss is nan at step 1")
    assert reproduce(tmp_path / "out", bert) == 0
    assert "4 runs, 1 diverged" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "the loss is nan at step 1" in report
    table = pd.read_csv(tmp_path / "out" / "differences.csv").query("less == 'SimCSE'")
    assert (table["seeds"] == 1).all() and len(table)
    for method in ("micse", "simcse"):
        calls[1][64, method, 2] = calls[1][64, "micse", 1]
    assert reproduce(tmp_path / "all", bert, "--seeds", 48) == 0
    assert "2 runs, 2 diverged" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_in_two_processes_are_those_in_turn(bert, in_turn, tmp_path):
    assert reproduce(tmp_path, bert, "--seeds", 48, "--workers", 2) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "runs.csv"), in_turn)


@pytest.mark.slow
def test_processes_share_the_threads_also_after_a_model_was_loaded(bert, monkeypatch):
    monkeypatch.setenv("MICSE_THREADS", "4")
    folder = str(bert / "bert-base-uncased")
    code = f"__import__('micse_utils').load_model({folder!r}).training or "
    calls = [f"{code}__import__('torch').get_num_threads() + {n}" for n in (0, 10)]
    found = dict(experiment.in_processes(eval, calls, workers=2))
    assert list(map(found.get, calls)) == [2, 12]


def test_the_papers_own_files_come_from_the_hub(bert, tmp_path, server):
    files = {path.name: path.read_bytes() for path in (bert / "bert-base-uncased").iterdir()}
    commit = "1" * 40
    server.repositories["models/bert-base-uncased"] = {commit: files}
    split = {
        f"wiki_subset_1M_{share}percent_seed{seed}.txt": "\n".join(TEXTS[seed : seed + n]).encode()
        for share, n in (("000.0064", 64), ("000.01", 100)) for seed in SEEDS
    }  # fmt: skip
    server.repositories["datasets/sap-ai-research/datasets-for-micse"] = {commit: split}
    assert reproduce(tmp_path / "out", "hub", "--seeds", 48) == 0
    [record] = map(json_or_none, (tmp_path / "out" / "runs").glob("*-SimCSE-*-64-48-*.json"))
    assert record["data"].startswith("wiki_subset_1M_000.0064percent_seed48 (hub: sap-ai-research")
    assert record["sentences"] == 64 and record["config"]["seed"] == 42


def test_without_a_hub_one_sentence_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["reproduce", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("micse reproduce: the paper's experiment needs bert-base-uncased")
    assert said.endswith("work here: --starts shipped whole raw centred")
    assert not (tmp_path / "out").exists()


def test_the_paper_plan_has_the_authors_recipes():
    runs = run_table.chosen_runs(
        ["bert"], list(run_table.OBJECTIVES)[:3], run_table.PAPERS_SIZES, range(48, 53)
    )
    assert len(runs) == 7 * 5 * 2  # SimCSE at miCSE's settings is the paper's SimCSE
    assert {run.size: run.length for run in runs} == {
        64: 2500, 100: 5000, 500: 20_000, 1_000: 8_000, 5_000: 39_500, 10_000: 7_850,
        100_000: 15_630,
    }  # fmt: skip
    config = next(run for run in runs if run.size == 100_000 and run.weight).config
    assert config == LowShotConfig(epochs=10, ami_weight=5e-4)


def test_the_kits_plan_has_the_settings_that_the_search_chose():
    runs = run_table.chosen_runs(["centred"], list(run_table.OBJECTIVES), [64], [48])
    found = {run.objective: (run.rate, run.weight, run.temperature) for run in runs}
    table = pd.read_csv(run_table.CHOSEN).query("start == 'centred' and chosen")
    for row in table.itertuples():
        assert found[row.objective] == (row.rate, row.weight, row.temperature)
    rate, _, temperature = found["miCSE"]
    assert found["SimCSE at miCSE's settings"] == (rate, 0, temperature)


def test_an_objective_that_no_search_chose_a_setting_for_is_left_out(tmp_path, capsys):
    runs = run_table.chosen_runs(["shipped"], ["micse", "simcse", "ami"], [64], [48])
    found = {run.objective: (run.rate, run.weight, run.temperature) for run in runs}
    assert found == {"miCSE": (1e-5, 0.03, 0.05), "SimCSE": (3e-5, 0, 0.1)}
    assert "AMI alone from shipped" in capsys.readouterr().out
    for option in ([], ["--search"]):
        call = ["reproduce", str(tmp_path / "out"), "--objectives", "matched", *option]
        starts = ["raw", "--settings", os.devnull] if not option else ["bert"]
        assert main([*call, "--starts", *starts]) == 1
        said = capsys.readouterr().err
        assert "there is nothing to run" in said and ("no search" in said) == bool(option)
        assert not (tmp_path / "out").exists()
    twice = run_table.CHOSEN.read_text(encoding="utf-8").replace("False\n", "True\n")
    (tmp_path / "search.csv").write_text(twice, encoding="utf-8")
    with pytest.raises(ValueError, match="two settings of one objective"):
        run_table.chosen_runs(["raw"], ["ami"], [64], [48], chosen=tmp_path / "search.csv")


def test_a_search_chooses_by_the_best_checkpoint_and_never_a_diverged_run():
    records = []
    for run, (best, last) in zip(
        run_table.search_runs(["raw"], ["simcse"]), [(50, 40), (50, 45), (60, 10)], strict=False
    ):
        history = [
            {"step": step, "spearman": score} for step, score in ((0, 50), (20, best), (40, last))
        ]
        history = [
            row | dict.fromkeys(("info_nce", "ami", "uniformity", "alignment"), 0)
            for row in history
        ]
        steps = {"selected": 20 if best > 50 else 0, "last": 40}
        records.append(vars(run) | {"history": history, "steps_of": steps})
    records[2] = vars(run_table.search_runs(["raw"], ["simcse"])[2]) | {"diverged": "nan"}
    assert search_table(records)["chosen"].tolist() == [False, True, False]
    assert search_table(records[2:])["chosen"].tolist() == [False]


def test_the_papers_scores_are_labelled_as_published():
    run = {"start": "bert", "objective": "miCSE", "checkpoint": "selected", "size": 64}
    runs = pd.DataFrame([run | {"task": task, "score": 70.0} for task in ("STS-B dev", SEVEN)])
    [axes] = _learning_curve(runs).axes
    assert "published miCSE, full-shot" in axes.get_legend_handles_labels()[1]


def test_more_sentences_than_the_package_has_are_refused_before_any_run(tmp_path, capsys):
    call = ["reproduce", str(tmp_path / "out"), "--starts", "shipped", "--sizes", "64", "1000000"]
    assert main(call) == 1
    assert "size must be at most" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="set MICSE_SENTEVAL to SentEval's folder")
def test_leaked_pairs_are_as_many_as_counted():
    dev = load_stsb("dev", source=REAL)
    found = [
        (leaked(pairs, dev).sum(), len(pairs))
        for pairs in (load_sts(y, source=REAL) for y in YEARS)
    ]
    assert [count for count, _ in found] == [259, 81, 193, 580, 22]
    assert sum(total for _, total in found) == 12_544
