"""Figures of training: the idea, attention in two views, courses, differences with intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.stats import norm

from micse_utils.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    describe,
    intervals,
    panels,
    sheet,
)

COLOURS = {
    "miCSE": BLUE, "SimCSE": ORANGE, "SimCSE at miCSE's rate": PINK, "AMI alone": GREEN,
    "SimCSE at miCSE's settings": PINK,
}  # fmt: skip


def objective_diagram() -> Figure:
    """Draw miCSE: a sentence, two dropout passes, what each term compares, and the loss."""
    figure, axes = sheet(10, 4.2)
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str = GREY) -> None:
        style = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": colour, "lw": 2}
        axes.text(x, y, text, ha="center", va="center", fontsize=12, bbox=style)

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})

    box(0.7, 2, "sentence")
    for y, view in ((3, "first"), (1, "second")):
        arrow((1.35, 2), (1.95, y))
        box(2.7, y, f"encoder,\n{view} dropout")
        for end, output in ((y / 2 + 2, "attention"), (y / 2, "[CLS]")):
            arrow((3.5, y), (4.4, end))
            box(5.2, end, f"{output}, {view}")
    terms = ((3, "AMI", "alike?", BLUE), (1, "InfoNCE", "same sentence?", ORANGE))
    for y, term, asks, colour in terms:
        arrow((6.1, y + 0.5), (6.6, y), colour)
        arrow((6.1, y - 0.5), (6.6, y), colour)
        box(7.4, y, f"{term}:\n{asks}", colour)
        arrow((8.15, y), (8.75, 2), colour)
    box(9.4, 2, "loss =\nInfoNCE\n− λ · AMI")
    return figure


def attention_views(
    first: np.ndarray, second: np.ndarray, tokens: Sequence[str], *, title: str
) -> Figure:
    """Draw the attention of one head in two dropout views; crosses mark what was dropped.

    Colours are logarithmic: most probabilities are small.

    Args:
        first, second: attention probabilities, [query, key]; 0 where dropped.
        tokens: names of queries and keys.
    """
    figure, both = sheet(10, 5, 1, 2, sharey=True)
    scale = LogNorm(vmin=1e-4, vmax=1, clip=True)
    for axes, view, name in zip(both, (first, second), ("first", "second"), strict=True):
        image = axes.imshow(view, cmap="cividis", norm=scale)
        rows, columns = np.nonzero(view == 0)
        axes.plot(columns, rows, "x", color="white", markersize=7, markeredgewidth=2)
        axes.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
        axes.set_yticks(range(len(tokens)), tokens)
        axes.set_xlabel(f"{name} view: token attended to")
    both[0].set_ylabel("attending token")
    figure.colorbar(image, ax=both, label="attention probability", shrink=0.7)
    figure.suptitle(title)
    return figure


def agreement(axes: Axes, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Draw each position's probability in both views; return rho and I, in nats.

    Args:
        axes: to draw on, which become logarithmic.
        first, second: log attention probabilities of the positions kept in both, [positions].
    """
    rho = np.corrcoef(first, second)[0, 1]
    information = -0.5 * np.log(max(1 - rho**2, 1e-6))
    ends = np.exp([min(first.min(), second.min()) - 0.4, 0.4])
    axes.plot(ends, ends, color=GREY, linestyle="--", lw=1, label="the same in both views")
    axes.loglog(np.exp(first), np.exp(second), "o", color=BLUE, alpha=0.5, markersize=5)
    found, probability = f"ρ = {rho:.3f}, I = {information:.2f} nats", "attention probability"
    describe(axes, found, xlabel=f"{probability}, first view", ylabel=f"{probability}, second view")
    return rho, information


def quantiles(axes: Axes, values: np.ndarray) -> None:
    """Draw a Q-Q plot: sorted, standardised values against those of a normal distribution."""
    expected = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    axes.plot(expected, expected, color=GREY, linestyle="--", lw=1, label="normal")
    axes.plot(expected, np.sort((values - values.mean()) / values.std()), ".", color=BLUE)
    labels = {"xlabel": "quantile of a normal distribution"}
    describe(axes, "Are they Gaussian?", ylabel="log-probability, standardised", **labels)
    axes.legend()


def heads(same: np.ndarray, different: np.ndarray, *, title: str) -> Figure:
    """Draw where the heads lie on I(rho), and I by layer and head.

    Args:
        same: correlation of two views of one sentence, [layers, heads].
        different: correlation of two different sentences of one length, [layers, heads].
    """
    names = ("One dot a head", "Two views of one sentence")
    figure, (left, right) = panels(names, title, shared=False)
    line = np.linspace(0, 0.995, 200)
    left.plot(line, -0.5 * np.log(1 - line**2), color=GREY, label="I = −½ log(1 − ρ²)")
    for rho, name, colour in ((same, names[1].lower(), BLUE), (different, "two sentences", ORANGE)):
        rho = np.abs(rho.ravel())
        left.plot(rho, -0.5 * np.log(1 - rho**2), "o", color=colour, alpha=0.6, label=name)
    left.set(xlabel="correlation ρ of log-attention", ylabel="mutual information I, nats")
    left.legend()
    image = right.imshow(-0.5 * np.log(1 - same**2), cmap="cividis", aspect="auto")
    right.grid(visible=False)
    layers, heads = map(range, same.shape)
    right.set(xlabel="head", ylabel="layer", xticks=heads, yticks=layers)
    figure.colorbar(image, ax=right, label="I, nats")
    return figure


def courses(
    histories: pd.DataFrame, columns: Mapping[str, str], *, title: str, by: str = "objective"
) -> Figure:
    """Draw figures over the steps of training, one line per run; the panels' scales differ.

    Args:
        histories: one row an evaluation: `by`, `seed`, `step` and `columns`. Names
            of objectives may begin with "your ": those lines are thick.
        columns: two to four columns to draw, with the labels of their axes.
        by: column that gives the colours.
    """
    figure, grid = panels([""] * len(columns), title, columns=2 + len(columns) % 2, shared=False)
    names = list(dict.fromkeys(histories[by]))
    spare = dict(zip(names, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names))), strict=True))
    for axes, (column, label) in zip(grid, columns.items(), strict=True):
        for (name, _), run in histories.groupby([by, "seed"], sort=False):
            run = run.dropna(subset=[column])
            yours = str(name).startswith("your ")
            colour = spare[name]
            if by == "objective":
                colour = COLOURS.get(name.removeprefix("your "), colour)
            style = {"color": colour, "lw": 4 if yours else 1.2, "alpha": 1 if yours else 0.7}
            axes.plot(run["step"], run[column], label=name, **style)
        axes.set(xlabel="training step", ylabel=label)
    handles, labels = grid[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3))
    return figure


def differences(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw differences with their intervals, one line per task, two panels in a row.

    `table`: `task`, `difference`, `low`, `high`, and `panel`.
    """
    figure, grid = panels(names := list(dict.fromkeys(table["panel"])), title)
    for axes, name in zip(grid, names, strict=True):
        part = table[table["panel"] == name].iloc[::-1]
        intervals(axes, part["task"], part, "difference", fmt="o", color=BLUE)
        axes.axvline(0, color=GREY, linestyle="--")
    figure.supxlabel("points, with 95 % interval", fontsize="medium")
    return figure


def learning_curve(
    runs: pd.DataFrame, *, title: str, label: str, published: Mapping[str, float] | None = None
) -> Figure:
    """Draw scores against the number of sentences: lines of means, seeds as dots; a panel a start.

    Args:
        runs: `start`, `objective`, `size`, `seed`, `score`; untrained encoders have no size.
        title: title of the figure.
        label: label of the scores.
        published: scores to draw as dotted lines in the panel of `bert`.
    """
    trained = runs.dropna(subset="size")
    starts = list(dict.fromkeys(trained["start"]))
    figure, panels = plt.subplots(
        1, len(starts), figsize=(2 + 4 * len(starts), 4.2), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, start in zip(panels[0], starts, strict=True):
        part = trained[trained["start"] == start]
        for objective, own in part.groupby("objective", sort=False):
            colour = COLOURS[objective]
            means = own.groupby("size")["score"].mean()
            axes.plot(means.index, means, "-", color=colour, label=objective)
            axes.plot(own["size"], own["score"], "o", color=colour, alpha=0.4, markersize=4)
        for value in runs.loc[(runs["start"] == start) & runs["size"].isna(), "score"]:
            axes.axhline(value, color=GREY, linestyle="--", label="untrained")
        for name, value in (published or {}).items() if start == "bert" else ():
            axes.axhline(value, color=GREY, linestyle=":", label=name)
        sizes = sorted(part["size"].unique())
        axes.set(xscale="log", xlabel="distinct sentences", title=start)
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    panels[0][0].set_ylabel(label)
    figure.suptitle(title)
    return figure
