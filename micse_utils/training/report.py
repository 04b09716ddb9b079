"""Tables and report of an experiment: absolute scores, untrained encoders first; differences."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import PUBLISHED, markdown
from micse_utils.evaluation.reported import AVERAGES, FAIR, with_averages
from micse_utils.provenance import versions
from micse_utils.training.experiment import OBJECTIVES, STARTS, Experiment, Run

Records = Sequence[Mapping[str, object]]
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


def runs_table(untrained: Records, done: Records) -> pd.DataFrame:
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
            scores = {"STS-B dev": at["spearman"]} | record["scores"][checkpoint]
            rows += [
                row | {"task": task, "score": score} | rest
                for task, score in with_averages(scores).items()
            ]
    return pd.DataFrame(rows)


def means_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of each checkpoint's score, and the number of seeds."""
    setting = ["start", "size", "objective", "rate", "weight", "temperature", "checkpoint", "task"]
    groups = runs.groupby(setting, sort=False, dropna=False)["score"]
    return groups.agg(score="mean", seeds="count").reset_index()


def courses_table(done: Records) -> pd.DataFrame:
    """Return a row for each run and evaluation."""
    parts = [
        pd.DataFrame(record["history"]).assign(**{name: record[name] for name in SETTING})
        for record in done
        if "diverged" not in record
    ]
    figures = ["step", "spearman", "info_nce", "ami", "alignment", "uniformity"]
    return pd.concat(parts, ignore_index=True)[[*SETTING, *figures]] if parts else pd.DataFrame()


def differences_table(experiment: Experiment, done: Records) -> pd.DataFrame:
    """Return each objective less each other, and less the untrained start, paired over seeds.

    For each start, size and checkpoint: what `compare_runs` gives, over the seeds that both have.
    """
    rows = []
    good = [record for record in done if "diverged" not in record]
    for start, size in dict.fromkeys((record["start"], record["size"]) for record in good):
        own = [record for record in good if (record["start"], record["size"]) == (start, size)]
        for checkpoint in CHECKPOINTS:
            of = {name: {} for name in OBJECTIVES.values()}
            for record in own:
                name = Run(**{name: record[name] for name in SETTING}).name
                found = _resampled(experiment.folder / f"{name}.npz", checkpoint)
                of[record["objective"]][record["seed"]] = found
            before = _resampled(experiment.folder / f"untrained-{start}.npz", UNTRAINED)
            of[UNTRAINED] = {record["seed"]: before for record in own}
            for (first, mine), (second, other) in itertools.combinations(of.items(), 2):
                seeds = sorted(mine.keys() & other.keys())
                if not seeds:
                    continue
                place = {"start": start, "size": size, "checkpoint": checkpoint}
                place |= {"objective": first, "less": second}
                for task in mine[seeds[0]]:
                    sides = ({task: np.stack([x[s][task] for s in seeds])} for x in (mine, other))
                    rows.append(compare_runs(*sides).assign(**place))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _resampled(file: Path, checkpoint: str) -> dict[str, np.ndarray]:
    """Return the resampled scores of a checkpoint, and of the averages, by task."""
    with np.load(file) as arrays:
        names = [name.rpartition(", ")[0] for name in arrays if name.endswith(", resampled")]
        names = [name for name in names if name.startswith(f"{checkpoint}, ")]
        found = {n.partition(", ")[2]: arrays[f"{n}, resampled"] for n in names}
    return with_averages(found)


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
    untrained: Records,
    done: Records,
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
        "one; nothing is selected on the other tasks"
        + (
            f', but for the pairs that are in it too: see "{FAIR.strip()}".' if _fair(runs) else "."
        ),
        "- *selected* and *last* are two checkpoints of the same run.",
    ]
    if not first["dev"].startswith("STSBenchmark"):
        lines.append("- **The selecting pairs are the kit's own, which are not a benchmark.**")
    kits = {record["start"] for record in done} - {"bert"}
    if kits:
        lines.append(f"- Settings of {_listed(sorted(kits))}: chosen by {chosen}.")
    if kits < {record["start"] for record in done}:
        lines += [
            "- bert: the authors' recipe by nominal size. What differs from theirs: the start and "
            "the last step may be selected, too; the gradient of log p and 1 − ρ² are kept finite."
            + " **Cut short: see the steps.**"
            * any(record["steps"] for record in done)
        ]
    lines += ["", "## Settings", "", _settings(done), "## Scores", ""]
    lines += [
        "Spearman × 100, or accuracy in per cent for triplets; means over seeds. The untrained "
        "encoders come first.", "",
    ]  # fmt: skip
    for size in sizes:
        lines += [f"### {size:,} sentences", "", scores_markdown(runs, size)]
        lines += _stuck(runs, size)
    if curve:
        lines += ["## Learning curve", "", f"![score against number of sentences]({curve})", ""]
    lines += ["## Differences", "", _differences(runs, differences)]
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
    before = runs["checkpoint"] == UNTRAINED
    part = runs[before | (runs["size"] == size)]
    averages = [task for task in AVERAGES if task in set(part["task"])]
    tasks = [*averages, *(t for t in part["task"].unique() if t not in averages)]
    tasks = [task for task in tasks if not (task.endswith(FAIR) and task not in averages)]
    rows = {}
    for start in STARTS:
        for objective in ("none", *OBJECTIVES.values()):
            for checkpoint in (UNTRAINED, *CHECKPOINTS):
                found = part[
                    (part["start"] == start) & (part["objective"] == objective)
                    & (part["checkpoint"] == checkpoint)
                ].groupby("task")["score"].mean()  # fmt: skip
                if len(found):
                    objective_ = "" if objective == "none" else f"{objective}, "
                    rows[f"{start}: {objective_}{checkpoint}"] = {
                        task: f"{found[task]:.2f}" for task in tasks if task in found
                    }
    rows = dict(sorted(rows.items(), key=lambda row: not row[0].endswith(UNTRAINED)))
    if averages and averages[-1] == SEVEN and (part["start"] == "bert").any():
        for name, label in PAPER.values():
            rows[label] = {task: f"{s:.2f}" for task, s in PUBLISHED[name].scores.items()}
            rows[label][averages[-1]] = f"{published_lines(averages[-1])[label]:.2f}"
    return markdown(rows)


def _settings(done: Records) -> str:
    rows = {}
    for record in done:
        row = {name: f"{record[name]:g}" for name in ("rate", "weight", "temperature")}
        row |= {"steps": str(record["length"])}
        sizes = "" if record["start"] != "bert" else f", {record['size']:,} sentences"
        rows[f"{record['start']}: {record['objective']}{sizes}"] = row
    return markdown(rows)


def _fair(runs: pd.DataFrame) -> bool:
    return runs["task"].str.endswith(FAIR).any()


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


def _differences(runs: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return the differences in the main tasks, with what their intervals are."""
    if differences.empty:
        return "There is no pair of finished runs of one seed.\n"
    averages = [task for task in AVERAGES if task in set(differences["task"])]
    main = averages or list(differences["task"].unique())
    rows = {}
    for row in differences[differences["task"].isin(main)].itertuples():
        label = f"{row.start}, {row.size:,}: {row.objective} minus {row.less}, {row.checkpoint}"
        cell = f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f}), {row.won}/{row.seeds}"
        rows.setdefault(label, {})[row.task] = cell
    return (
        "Points, with a 95 % interval over seeds and test items (a paired bootstrap), and the "
        "seeds won. With five seeds such an interval covers the truth in 84 % of cases if only "
        "seeds differ, in 92 % or more if test items matter half as much. All tasks are in "
        f"`differences.csv`.\n\n{markdown(rows)}"
    )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values)
