"""Tables and report of an experiment: absolute scores, untrained encoders first; differences."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
CHECKPOINTS = ("selected", "last")
COMPARED = (*OBJECTIVES.values(), UNTRAINED)
*_, SEVEN = AVERAGES
PAPER = {
    "published miCSE, full-shot": "miCSE",
    "published SimCSE, full-shot": "unsup-simcse-bert-base-uncased",
}
"""Published averages drawn beside the paper's encoder; of its low-shot splits none is known."""


def write_report(experiment: Experiment, done: Sequence[Record], *, command: str) -> str:
    """Write tables, learning curve and report beside the runs; return the scores, in Markdown.

    `done` are the records of the runs, and `command` is what to type to repeat them.
    """
    folder = experiment.folder.parent
    untrained = experiment.untrained_of([_run_of(record) for record in done])
    runs, differences = runs_table(untrained, done), differences_table(experiment, done)
    tables = {"runs": runs, "means": means_table(runs), "courses": courses_table(done)}
    for name, table in (tables | {"differences": differences}).items():
        save_table(folder, name, table)
    sizes = sorted({record["size"] for record in done})
    scores = "\n".join(f"### {n:,} sentences\n\n{scores_markdown(runs, n)}" for n in sizes)
    parts = {
        "What was run": _what_was_run(untrained, done, command),
        "Scores": "Spearman × 100, or accuracy in per cent for triplets: mean ± standard deviation "
        f"over seeds. The untrained encoders come first.\n\n{scores}",
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

    Spearman of the development pairs at the best checkpoint chooses, the start being one; of
    equals, such as settings that improve nothing, the one with the better last step.
    """
    rows = []
    for record in done:
        row = {name: record[name] for name in SETTING}
        if "diverged" not in record:  # a row without figures is never chosen
            history = {figures["step"]: figures for figures in record["history"]}
            best, last = (history[step] for step in record["steps_of"].values())
            row |= {"before": history[0]["spearman"], "best": best["spearman"]}
            row |= {"best_step": best["step"], "last": last["spearman"]}
            row |= {name: last[name] for name in ("info_nce", "ami", "uniformity", "alignment")}
        rows.append(row)
    table = pd.DataFrame(rows)
    if "best" not in table:
        raise ValueError("every run of the search diverged: none can be chosen")
    ranked = table.dropna(subset="best").sort_values(["best", "last"])
    chosen = ranked.groupby(["start", "objective"]).tail(1).index
    return table.assign(chosen=table.index.isin(chosen))


def runs_table(untrained: Sequence[Record], done: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run, checkpoint and task, those of untrained encoders first."""
    rows = []
    for record in untrained:
        row = {"start": record["start"], "objective": "none", "checkpoint": UNTRAINED, "step": 0}
        scores = with_averages(record["scores"])
        rows += [row | {"task": task, "score": score} for task, score in scores.items()]
    for record in _finished(done):
        history = {figures["step"]: figures for figures in record["history"]}
        for checkpoint, step in record["steps_of"].items():
            row = {name: record[name] for name in SETTING} | {"checkpoint": checkpoint}
            row |= {name: history[step][name] for name in ("step", "info_nce", "ami")}
            row["passes"] = step * record["config"]["batch_size"] / record["sentences"]
            scores = {record["dev name"]: history[step]["spearman"]} | record["scores"][checkpoint]
            scores = with_averages(scores)
            rows += [row | {"task": task, "score": score} for task, score in scores.items()]
    columns = ["start", "objective", "checkpoint", "step", "task", "score", *SETTING[2:]]
    return pd.DataFrame(rows, columns=[*columns, "info_nce", "ami", "passes"])


def means_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of each checkpoint's score, and the number of seeds."""
    setting = ["start", "size", "objective", "rate", "weight", "temperature", "checkpoint", "task"]
    groups = runs.groupby(setting, sort=False, dropna=False)["score"]
    return groups.agg(score="mean", seeds="count").reset_index()


def courses_table(done: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run and evaluation."""
    parts = [
        pd.DataFrame(record["history"]).assign(**{name: record[name] for name in SETTING})
        for record in _finished(done)
    ]
    figures = ["step", "spearman", "info_nce", "ami", "alignment", "uniformity"]
    return pd.concat(parts, ignore_index=True)[[*SETTING, *figures]] if parts else pd.DataFrame()


def differences_table(experiment: Experiment, done: Sequence[Record]) -> pd.DataFrame:
    """Return each objective less each other, and less the untrained start, paired over seeds.

    For each start, size and checkpoint: what `compare_runs` gives, over the seeds that both have.
    """
    places = {}  # by start, size and checkpoint: of each objective, the scores of each seed
    for run, checkpoint in itertools.product(map(_run_of, _finished(done)), CHECKPOINTS):
        place = places.setdefault((run.start, run.size, checkpoint), {n: {} for n in COMPARED})
        files = {run.objective: (run.name, checkpoint)}
        files[UNTRAINED] = f"{UNTRAINED}-{run.start}", UNTRAINED
        for name, file in files.items():
            place[name][run.seed] = with_averages(experiment.resampled(*file))
    rows = []
    for (start, size, checkpoint), of in places.items():
        place = {"start": start, "size": size, "checkpoint": checkpoint}
        for (first, mine), (second, other) in itertools.combinations(of.items(), 2):
            if seeds := sorted(mine.keys() & other.keys()):
                sides = (
                    {
                        task: np.stack([side[seed][task] for seed in seeds])
                        for task in mine[seeds[0]]
                    }
                    for side in (mine, other)
                )
                rows.append(compare_runs(*sides).assign(**place, objective=first, less=second))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _finished(done: Iterable[Record]) -> list[Record]:
    return [record for record in done if "diverged" not in record]


def _run_of(record: Record) -> Run:
    return Run(**{name: record[name] for name in SETTING})


def _learning_curve(runs: pd.DataFrame) -> Figure:
    """Draw the main task's scores at the selected checkpoint against the number of sentences."""
    tasks = list(runs["task"].unique())
    main = next((name for name in AVERAGES if name in tasks), tasks[1])  # the first is of dev pairs
    published = {}
    if SEVEN in tasks and "bert" in set(runs["start"]):  # what the paper reports
        main = SEVEN
        published = {label: np.mean([*PUBLISHED[n].scores.values()]) for label, n in PAPER.items()}
    title = "Score against the number of distinct sentences, selected checkpoint"
    shown = runs[(runs["task"] == main) & (runs["checkpoint"] != "last")]
    return learning_curve(shown, title=title, label=main, published=published)


def _what_was_run(untrained: Sequence[Record], done: Sequence[Record], command: str) -> str:
    rows = []
    for record in done:
        row = {name: record[name] for name in (*SETTING[:-1], "length")}
        failed = record.get("diverged")
        at = f"diverged: {failed}" if failed else record["steps_of"]["selected"]
        rows.append(row | {"selected at step": at})
    lines = [
        f"`{command}`, {sum(record['seconds'] for record in done) / 3600:.2f} hours of computing.",
        f"Selected on: {done[0]['dev']}. They choose the checkpoint of each run, the start being "
        "one. "
        + (
            f'It holds some pairs of STS12 to STS16, too; tasks "{FAIR.strip()}" leave them out.'
            if done[0]["dev name"] == "STS-B dev"
            else "**They are the kit's own, which are not a benchmark.**"
        ),
        "Runs that diverged have no score: a mean is then of fewer seeds (`means.csv`).",
        "*selected* and *last* are two checkpoints of the same run. A run selected at step 0 has "
        "none that was better than the start, and *selected* is the untrained encoder.",
        "The kit's own starts have the settings that a search chose: the table named by "
        "`--settings`, by default data/recorded/low_shot/search.csv. bert has the authors' recipe "
        "by nominal size; its seeds name files of sentences, and the training seed is 42. What "
        "differs from theirs: the start and the last step may be selected, too; the gradient of "
        "log p and 1 − ρ² are kept finite.",
    ]
    if any(record["steps"] != STARTS[record["start"]].steps for record in done):
        lines.append("**Cut short: this shows that the experiment works, not what it finds.**")
    lines += [f"{record['start']}, untrained: {record['model']}" for record in untrained]
    for name in ("data", "device"):
        lines.append(f"{name}: {', '.join(dict.fromkeys(record[name] for record in done))}")
    lines.append(", ".join(f"{name} {version}" for name, version in versions().items()))
    listed = "".join(f"- {line}\n" for line in lines)
    return f"{listed}\n```\n{pd.DataFrame(rows).to_string(index=False)}\n```\n"


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
        "Points, with a 95 % interval over seeds and test items, and the seeds won. It is a t "
        "interval over seeds, widened by the variance over resampled items (over items only for "
        "one seed). All tasks and pairs are in `differences.csv`.\n\n"
        f"```\n{shown}\n```\n"
    )
