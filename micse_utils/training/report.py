"""Tables and report of an experiment: absolute scores, untrained encoders first; differences."""

import itertools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import PUBLISHED, markdown
from micse_utils.evaluation.reported import AVERAGES, FAIR, with_averages
from micse_utils.plotting.training import learning_curve
from micse_utils.provenance import versions
from micse_utils.results import save_figure, save_table, write_text
from micse_utils.training.experiment import Experiment, Record
from micse_utils.training.plan import CHOSEN, OBJECTIVES, STARTS, Run

SETTING = [field.name for field in fields(Run)]
UNTRAINED = "untrained"
CHECKPOINTS = ("selected", "last")
SEVEN = list(AVERAGES)[-1]
"""The average that papers print."""
PAPER = {
    "miCSE": ("miCSE", "published miCSE, full-shot"),
    "SimCSE": ("unsup-simcse-bert-base-uncased", "published SimCSE, full-shot"),
}
"""Published rows of the paper's encoder; of the low-shot splits there is none in numbers."""


def write_report(
    experiment: Experiment, done: Sequence[Record], *, command: str, chosen: Path
) -> str:
    """Write tables, learning curve and report beside the runs; return the scores, in Markdown.

    Args:
        experiment: where the runs are kept.
        done: their records.
        command: what to type to repeat it.
        chosen: the table that chose the settings of the kit's own starts.
    """
    folder, runs = experiment.folder.parent, [_run_of(record) for record in done]
    untrained = experiment.untrained_of(runs)
    table, differences = runs_table(untrained, done), differences_table(experiment, done)
    tables = {"runs": table, "means": means_table(table), "courses": courses_table(done)}
    tables["differences"] = differences
    curve, sizes = None, sorted({run.size for run in runs})
    if len({*table["size"].dropna()}) > 1:
        task, scores = learning_curve_table(table)
        save_figure(folder, "learning_curve", learning_curve(
            scores, title="Score against the number of distinct sentences, selected checkpoint",
            label=task, published=published_lines(task),
        ))  # fmt: skip
        curve = "learning_curve.png"
    for name, rows in tables.items():
        save_table(folder, name, rows)
    named = chosen.name if chosen.parent == folder else "/".join(chosen.parts[-4:])
    if chosen == CHOSEN and any(run.start == "shipped" for run in runs):
        named += " (shipped: data/recorded/shipped_search.csv)"
    found = {"runs": table, "differences": differences}
    text = report(untrained, done, **found, command=command, chosen=named, curve=curve)
    write_text(folder / "report.md", text)
    return "\n".join(scores_markdown(table, size).rstrip() for size in sizes)


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
    for record in done:
        if "diverged" in record:
            continue
        history = {figures["step"]: figures for figures in record["history"]}
        for checkpoint, step in record["steps_of"].items():
            at = history[step]
            row = {"start": record["start"], "objective": record["objective"]}
            row |= {"checkpoint": checkpoint, "step": step}
            rest = {name: record[name] for name in SETTING if name not in row}
            rest |= {"info_nce": at["info_nce"], "ami": at["ami"]}
            rest["passes"] = step * record["config"]["batch_size"] / record["sentences"]
            scores = {record["dev name"]: at["spearman"]} | record["scores"][checkpoint]
            rows += [
                row | {"task": task, "score": score} | rest
                for task, score in with_averages(scores).items()
            ]
    columns = ["start", "objective", "checkpoint", "step", "task", "score"]
    columns += [name for name in SETTING if name not in columns]
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
        for record in done
        if "diverged" not in record
    ]
    figures = ["step", "spearman", "info_nce", "ami", "alignment", "uniformity"]
    return pd.concat(parts, ignore_index=True)[[*SETTING, *figures]] if parts else pd.DataFrame()


def differences_table(experiment: Experiment, done: Sequence[Record]) -> pd.DataFrame:
    """Return each objective less each other, and less the untrained start, paired over seeds.

    For each start, size and checkpoint: what `compare_runs` gives, over the seeds that both have.
    """
    runs = [_run_of(record) for record in done if "diverged" not in record]
    places = itertools.product(dict.fromkeys((run.start, run.size) for run in runs), CHECKPOINTS)
    rows = []
    for (start, size), checkpoint in places:
        own = [run for run in runs if (run.start, run.size) == (start, size)]
        of = {name: {} for name in OBJECTIVES.values()}
        for run in own:
            found = experiment.resampled(run.name, checkpoint)
            of[run.objective][run.seed] = with_averages(found)
        before = with_averages(experiment.resampled(f"{UNTRAINED}-{start}", UNTRAINED))
        of[UNTRAINED] = {run.seed: before for run in own}
        for (first, mine), (second, other) in itertools.combinations(of.items(), 2):
            if seeds := sorted(mine.keys() & other.keys()):
                sides = (
                    {task: np.stack([side[seed][task] for seed in seeds]) for task in before}
                    for side in (mine, other)
                )
                place = {"start": start, "size": size, "checkpoint": checkpoint}
                place |= {"objective": first, "less": second}
                rows.append(compare_runs(*sides).assign(**place))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _run_of(record: Record) -> Run:
    return Run(**{name: record[name] for name in SETTING})


def learning_curve_table(runs: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the main task, and its scores at the selected checkpoint, a row a run."""
    tasks = list(runs["task"].unique())
    main = next((name for name in AVERAGES if name in tasks), tasks[1])
    if SEVEN in tasks and "bert" in set(runs["start"]):  # what the paper reports
        main = SEVEN
    chosen = runs[(runs["task"] == main) & (runs["checkpoint"] != "last")]
    return main, chosen[["start", "objective", "checkpoint", "size", "seed", "score"]]


def published_lines(main: str) -> dict[str, float]:
    """Return published averages to draw beside the paper's encoder; none for other tasks."""
    if main != SEVEN:
        return {}
    rows = {label: PUBLISHED[name].scores.values() for name, label in PAPER.values()}
    return {label: sum(scores) / len(scores) for label, scores in rows.items()}


def report(
    untrained: Sequence[Record],
    done: Sequence[Record],
    runs: pd.DataFrame,
    differences: pd.DataFrame,
    *,
    command: str,
    chosen: str,
    curve: str | None = None,
) -> str:
    """Return the report of an experiment, in Markdown.

    Args:
        untrained, done: the records.
        runs, differences: the tables made of them.
        command: what to type to repeat it.
        chosen: where the settings of the kit's own starts come from.
        curve: file of the learning curve, if there is one.
    """
    good = [record for record in done if "diverged" not in record]
    first = (good or done)[0]
    sizes, seeds = (sorted({record[name] for record in done}) for name in ("size", "seed"))
    lines = ["# miCSE and SimCSE with few sentences", "", f"`{command}`", "", "## What was run", ""]
    lines += [
        f"- {len(done)} runs: sizes {_listed(sizes)}; seeds {_listed(seeds)}; "
        f"{sum(record['seconds'] for record in done) / 3600:.2f} hours of computing.",
        f"- Selected on: {first['dev']}. It chooses the checkpoint of each run, the start being "
        "one. Nothing is selected on the other tasks"
        + f'; but some of their pairs are in it, too, see "{FAIR.strip()}"'
        * bool(runs["task"].str.endswith(FAIR).any())
        + ".",
        "- *selected* and *last* are two checkpoints of the same run.",
    ]
    if not first["dev"].startswith("STSBenchmark"):
        lines.append("- **The selecting pairs are the kit's own, which are not a benchmark.**")
    starts = {record["start"] for record in done}
    if kits := starts - {"bert"}:
        lines.append(f"- Settings of {_listed(sorted(kits))}: chosen by {chosen}.")
    if "bert" in starts:
        lines += [
            "- bert: the authors' recipe by nominal size; seeds name files of sentences, the "
            "training seed is 42. What differs from theirs: the start and the last step may be "
            "selected, too; the gradient of log p and 1 − ρ² are kept finite."
        ]
    if any(record["steps"] != STARTS[record["start"]].steps for record in done):
        lines.append("- **Cut short: this shows that the experiment works, not what it finds.**")
    lines += ["", "## Settings", "", _settings(done), "## Scores", ""]
    lines += [
        "Spearman × 100, or accuracy in per cent for triplets: mean ± standard deviation over "
        "seeds. The untrained encoders come first.", "",
    ]  # fmt: skip
    for size in sizes:
        lines += [f"### {size:,} sentences", "", scores_markdown(runs, size)]
        lines += _stuck(runs, size)
    if curve:
        lines += ["## Learning curve", "", f"![score against number of sentences]({curve})", ""]
    lines += ["## Differences", "", _differences(differences)]
    if failed := [record for record in done if "diverged" in record]:
        lines += ["## Runs that diverged", ""]
        for record in failed:
            which = ", ".join(str(record[name]) for name in SETTING[:-1])
            lines.append(f"- {which}: {record['diverged']}")
        lines.append("")
    lines += ["## Provenance", ""]
    lines += [f"- {record['start']}, untrained: {record['model']}" for record in untrained]
    lines += [f"- sentences: {data}" for data in dict.fromkeys(record["data"] for record in done)]
    lines.append(f"- devices: {_listed(dict.fromkeys(record['device'] for record in done))}")
    lines.append(f"- {', '.join(f'{name} {version}' for name, version in versions().items())}")
    return "\n".join(lines) + "\n"


def scores_markdown(runs: pd.DataFrame, size: int) -> str:
    """Return the mean scores of one size: a row for each encoder, a column for each task."""
    part = runs[(runs["checkpoint"] == UNTRAINED) | (runs["size"] == size)]
    averages = [task for task in AVERAGES if task in set(part["task"])]
    tasks = [*averages, *(t for t in part["task"].unique() if not t.endswith(FAIR))]
    rows = {}
    for place, own in part.groupby(["start", "objective", "checkpoint"], sort=False):
        label = place[0] + ": " + ", ".join(name for name in place[1:] if name != "none")
        scores = own.groupby("task")["score"].agg(["mean", "std"])
        rows[label] = {
            task: f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation == deviation else "")
            for task, (mean, deviation) in scores.reindex(dict.fromkeys(tasks)).iterrows()
            if mean == mean
        }
    if SEVEN in averages and (part["start"] == "bert").any():
        for name, label in PAPER.values():
            rows[label] = {task: f"{s:.2f}" for task, s in PUBLISHED[name].scores.items()}
            rows[label][SEVEN] = f"{published_lines(SEVEN)[label]:.2f}"
    return markdown(rows)


def _settings(done: Sequence[Record]) -> str:
    rows = {}
    for record in done:
        row = {name: f"{record[name]:g}" for name in ("rate", "weight", "temperature")}
        row |= {"steps": str(record["length"])}
        sizes = "" if record["start"] != "bert" else f", {record['size']:,} sentences"
        rows[f"{record['start']}: {record['objective']}{sizes}"] = row
    return markdown(rows)


def _stuck(runs: pd.DataFrame, size: int) -> list[str]:
    """Name the objectives of which runs stayed at the start."""
    part = runs[(runs["size"] == size) & (runs["checkpoint"] == "selected")]
    part = part.drop_duplicates(SETTING)
    lines = []
    for (start, objective), own in part.groupby(["start", "objective"], sort=False):
        if stayed := int((own["step"] == 0).sum()):
            lines.append(
                f"- {start}, {objective}: no checkpoint of {stayed} of {len(own)} runs was better "
                "than the start, so *selected* is the untrained encoder there."
            )
    return [*lines, ""]


def _differences(differences: pd.DataFrame) -> str:
    """Return the differences in the main tasks, with what their intervals are."""
    if differences.empty:
        return "There is no pair of finished runs of one seed.\n"
    averages = [task for task in AVERAGES if task in set(differences["task"])]
    main = differences["task"].isin(averages or differences["task"])
    main &= (differences["objective"] == "miCSE") | (differences["less"] == UNTRAINED)
    rows = {}
    for row in differences[main & (differences["low"] < differences["high"])].itertuples():
        label = f"{row.start}, {row.size:,}: {row.objective} minus {row.less}, {row.checkpoint}"
        cell = f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f}), {row.won}/{row.seeds}"
        rows.setdefault(label, {})[row.task] = cell
    return (
        "Points, with a 95 % interval over seeds and test items, and the seeds won. It is a t "
        "interval over seeds, widened by the variance over resampled items (over items only for "
        "one seed). Equal scores, as of two runs that kept the start, are left out. All tasks and "
        f"pairs are in `differences.csv`.\n\n{markdown(rows)}"
    )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values)
