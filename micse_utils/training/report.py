"""Tables and report of an experiment: absolute scores, untrained encoders first; differences."""

import itertools
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import PUBLISHED, markdown
from micse_utils.evaluation.reported import AVERAGES, FAIR, with_averages
from micse_utils.plotting.training import learning_curve
from micse_utils.provenance import versions
from micse_utils.results import save_figure, save_table, write_text
from micse_utils.training.experiment import Experiment, Record
from micse_utils.training.run_table import OBJECTIVES, STARTS, Run

SETTING = [field.name for field in fields(Run)]
UNTRAINED = "untrained"
SEVEN = list(AVERAGES)[-1]


def write_report(experiment: Experiment, done: Sequence[Record], *, command: str) -> str:
    """Write tables, learning curve and report beside the runs; return the scores, in Markdown."""
    folder, finished = experiment.folder.parent, [r for r in done if "diverged" not in r]
    untrained = experiment.untrained_of([_run_of(record) for record in done])
    runs, differences = runs_table(untrained, finished), differences_table(experiment, finished)
    save_table(folder, "runs", runs)
    save_table(folder, "differences", differences)
    setting = ["start", "size", "objective", "rate", "weight", "temperature", "checkpoint", "task"]
    over_seeds = runs.groupby(setting, sort=False, dropna=False)["score"]
    means = over_seeds.agg(score="mean", seeds="count").reset_index()
    save_table(folder, "means", means)
    courses = [record | figures for record in finished for figures in record["history"]]
    figures = ["step", "spearman", "info_nce", "ami", "alignment", "uniformity"]
    save_table(folder, "courses", pd.DataFrame(courses, columns=[*SETTING, *figures]))
    sizes = sorted({record["size"] for record in done})
    scores = "\n".join(f"### {n:,} sentences\n\n{scores_markdown(runs, n)}" for n in sizes)
    parts = {
        "What was run": _what_was_run(untrained, done, command),
        "Scores": "Spearman × 100, or accuracy in per cent for triplets: mean ± standard deviation "
        f"over the seeds that did not diverge. The untrained encoders come first.\n\n{scores}",
        "Differences": _differences(differences),
    }
    if len(set(runs["size"].dropna())) > 1:
        save_figure(folder, "learning_curve", _learning_curve(runs))
        parts["Learning curve"] = "![score against number of sentences](learning_curve.png)\n"
    text = "\n".join(f"## {title}\n\n{part}" for title, part in parts.items())
    write_text(folder / "report.md", f"# miCSE and SimCSE with few sentences\n\n{text}")
    return scores


def search_table(done: Sequence[Record]) -> pd.DataFrame:
    """Return the settings of a search, a row each; `chosen` marks the best of each objective.

    Spearman of the development pairs at the best checkpoint chooses, the start being one, and of
    equals the last step. A run that diverged has no figures, and is never chosen.
    """
    rows = []
    for record in done:
        row = {name: record[name] for name in SETTING}
        if "diverged" not in record:
            history = {figures["step"]: figures for figures in record["history"]}
            best, last = (history[step] for step in record["steps_of"].values())
            row |= last | {"before": history[0]["spearman"], "last": last["spearman"]}
            row |= {"best": best["spearman"], "best_step": best["step"]}
        rows.append(row)
    figures = ["before", "best", "best_step", "last", "info_nce", "ami", "uniformity", "alignment"]
    table = pd.DataFrame(rows, columns=[*SETTING, *figures])
    ranked = table.dropna(subset="best").sort_values(["best", "last"], na_position="first")
    chosen = ranked.groupby(["start", "objective"]).tail(1).index
    return table.assign(chosen=table.index.isin(chosen))


def runs_table(untrained: Sequence[Record], finished: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run, checkpoint and task, those of untrained encoders first."""
    rows = []
    for record in untrained:
        row = {"start": record["start"], "objective": "none", "checkpoint": UNTRAINED, "step": 0}
        rows += [row | {"task": t, "score": s} for t, s in with_averages(record["scores"]).items()]
    for record in finished:
        history = {figures["step"]: figures for figures in record["history"]}
        for checkpoint, step in record["steps_of"].items():
            passes = step * record["config"]["batch_size"] / record["sentences"]
            row = history[step] | {name: record[name] for name in SETTING}
            row |= {"checkpoint": checkpoint, "passes": passes}
            scores = {record["dev name"]: row["spearman"]} | record["scores"][checkpoint]
            rows += [row | {"task": t, "score": s} for t, s in with_averages(scores).items()]
    columns = ["start", "objective", "checkpoint", "step", "task", "score", *SETTING[2:]]
    return pd.DataFrame(rows, columns=[*columns, "info_nce", "ami", "passes"])


def differences_table(experiment: Experiment, finished: Sequence[Record]) -> pd.DataFrame:
    """Return each objective less each other, and less the untrained start, paired over seeds.

    For each start, size and checkpoint: what `compare_runs` gives, over the seeds that both have.
    """
    places = {}  # by start, size and checkpoint: of each objective, the scores of each seed
    names = [*OBJECTIVES.values(), UNTRAINED]
    for run, checkpoint in itertools.product(map(_run_of, finished), ("selected", "last")):
        place = places.setdefault((run.start, run.size, checkpoint), {name: {} for name in names})
        files = {run.objective: (run.name, checkpoint)}
        files[UNTRAINED] = f"{UNTRAINED}-{run.start}", UNTRAINED
        for name, file in files.items():
            place[name][run.seed] = with_averages(experiment.resampled(*file))
    rows = []
    for (start, size, checkpoint), of in places.items():
        place = {"start": start, "size": size, "checkpoint": checkpoint}
        for (first, mine), (second, other) in itertools.combinations(of.items(), 2):
            if seeds := sorted(mine.keys() & other.keys()):
                table = compare_runs(_stacked(mine, seeds), _stacked(other, seeds))
                rows.append(table.assign(**place, objective=first, less=second))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _stacked(scores: dict[int, dict[str, np.ndarray]], seeds: list[int]) -> dict[str, np.ndarray]:
    return {task: np.stack([scores[seed][task] for seed in seeds]) for task in scores[seeds[0]]}


def _run_of(record: Record) -> Run:
    return Run(**{name: record[name] for name in SETTING})


def _learning_curve(runs: pd.DataFrame):
    """Draw the main task's scores at the selected checkpoint against the number of sentences."""
    tasks, published = list(runs["task"].unique()), {}
    main = next((name for name in AVERAGES if name in tasks), tasks[1])  # the first is of dev pairs
    if SEVEN in tasks and "bert" in set(runs["start"]):  # what the paper reports, not by split
        main = SEVEN
        for name in ("miCSE", "unsup-simcse-bert-base-uncased"):
            published[f"published {name}, full-shot"] = np.mean([*PUBLISHED[name].scores.values()])
    title = "Score against the number of distinct sentences, selected checkpoint"
    shown = runs[(runs["task"] == main) & (runs["checkpoint"] != "last")]
    return learning_curve(shown, title=title, label=main, published=published)


def _what_was_run(untrained: Sequence[Record], done: Sequence[Record], command: str) -> str:
    warning = "**These pairs are the kit's own, which are not a benchmark.**"
    if done[0]["dev name"] == "STS-B dev":
        warning = f'Some of these are in STS12 to STS16; tasks "{FAIR.strip()}" leave them out.'
    lines = [
        f"`{command}`, {sum(record['seconds'] for record in done) / 3600:.2f} hours of computing.",
        f"Selected on: {done[0]['dev']}. {warning}",
        "*selected* and *last* are two checkpoints of the same run. If step 0 was selected, no "
        "checkpoint was better than the start, and *selected* is the untrained encoder.",
        "bert has the authors' recipe by nominal size and the training seed 42, but the start and "
        "the last step may be selected, too. Other starts have what a search chose (`--settings`).",
    ]
    if any(record["steps"] != STARTS[record["start"]].steps for record in done):
        lines.append("**Cut short: this shows that the experiment works, not what it finds.**")
    failed = [record for record in done if "diverged" in record]
    lines += [f"**diverged, no score**: {_run_of(r).name}, {r['diverged']}" for r in failed]
    lines += [f"{record['start']}, untrained: {record['model']}" for record in untrained]
    for name in ("data", "device"):
        lines.append(f"{name}: {', '.join(dict.fromkeys(record[name] for record in done))}")
    lines.append(", ".join(f"{name} {version}" for name, version in versions().items()))
    return "".join(f"- {line}\n" for line in lines)


def scores_markdown(runs: pd.DataFrame, size: int) -> str:
    """Return the mean scores of one size: a row for each encoder, a column for each task."""
    part = runs[(runs["checkpoint"] == UNTRAINED) | (runs["size"] == size)]
    part = part[part["task"].isin(AVERAGES) | ~part["task"].str.endswith(FAIR)]
    encoder = part["start"] + ": " + part["objective"] + ", " + part["checkpoint"]
    groups = part.groupby([encoder.str.replace("none, ", ""), "task"], sort=False)["score"]
    rows = {}
    for (label, task), scores in groups:
        deviation = f" ± {scores.std():.2f}" if len(scores) > 1 else ""
        rows.setdefault(label, {})[task] = f"{scores.mean():.2f}{deviation}"
    return markdown(rows)


def _differences(differences: pd.DataFrame) -> str:
    """Return the differences in the main tasks, with what their intervals are."""
    if differences.empty:
        return "No run finished.\n"
    averages = [task for task in AVERAGES if task in set(differences["task"])]
    main = differences["task"].isin(averages or differences["task"])
    main &= (differences["objective"] == "miCSE") | (differences["less"] == UNTRAINED)
    shown = differences[main].to_string(index=False, float_format="{:+.2f}".format)
    return (
        "Points, with a 95 % interval over seeds and test items (for one seed, over items), and "
        f"the seeds won. All tasks and pairs are in `differences.csv`.\n\n```\n{shown}\n```\n"
    )
