"""Figures of training: the idea, attention in two views, courses, differences with intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.stats import norm

from micse_utils.plotting.style import BLUE, GREEN, GREY, ORANGE, PINK

COLOURS = {
    "miCSE": BLUE, "SimCSE": ORANGE, "SimCSE at miCSE's rate": PINK, "AMI alone": GREEN,
    "SimCSE at miCSE's settings": PINK,
}  # fmt: skip


def objective_diagram() -> Figure:
    """Draw miCSE: a sentence, two dropout passes, what each term compares, and the loss."""
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
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
    for y, term, asks, colour in (
        (3, "AMI", "alike?", BLUE),
        (1, "InfoNCE", "same sentence?", ORANGE),
    ):
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
        title: title of the figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    scale = LogNorm(vmin=1e-4, vmax=1, clip=True)
    for axes, view, name in zip(panels, (first, second), ("first", "second"), strict=True):
        image = axes.imshow(view, cmap="cividis", norm=scale)
        rows, columns = np.nonzero(view == 0)
        axes.plot(columns, rows, "x", color="white", markersize=7, markeredgewidth=2)
        axes.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
        axes.set_yticks(range(len(tokens)), tokens)
        axes.set_xlabel(f"{name} view: token attended to")
    panels[0].set_ylabel("attending token")
    figure.colorbar(image, ax=panels, label="attention probability", shrink=0.7)
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
    axes.set(
        xlabel="attention probability, first view",
        ylabel="attention probability, second view",
        title=f"ρ = {rho:.3f}, I = {information:.2f} nats",
    )
    axes.grid(alpha=0.3)
    return rho, information


def quantiles(axes: Axes, values: np.ndarray) -> None:
    """Draw a Q-Q plot: sorted, standardised values against those of a normal distribution."""
    expected = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    axes.plot(expected, expected, color=GREY, linestyle="--", lw=1, label="normal")
    axes.plot(expected, np.sort((values - values.mean()) / values.std()), ".", color=BLUE)
    axes.set(
        xlabel="quantile of a normal distribution",
        ylabel="log-probability, standardised",
        title="Are they Gaussian?",
    )
    axes.legend()
    axes.grid(alpha=0.3)


def heads(same: np.ndarray, different: np.ndarray, *, title: str) -> Figure:
    """Draw where the heads lie on I(rho), and I by layer and head.

    Args:
        same: correlation of two views of one sentence, [layers, heads].
        different: correlation of two different sentences of one length, [layers, heads].
        title: title of the figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    line = np.linspace(0, 0.995, 200)
    left.plot(line, -0.5 * np.log(1 - line**2), color=GREY, label="I = −½ log(1 − ρ²)")
    for rho, name, colour in (
        (same, "two views of one sentence", BLUE),
        (different, "two sentences", ORANGE),
    ):
        rho = np.abs(rho.ravel())
        left.plot(rho, -0.5 * np.log(1 - rho**2), "o", color=colour, alpha=0.6, label=name)
    left.set(
        xlabel="correlation ρ of log-attention",
        ylabel="mutual information I, nats",
        title="One dot a head",
    )
    left.legend()
    left.grid(alpha=0.3)
    image = right.imshow(-0.5 * np.log(1 - same**2), cmap="cividis", aspect="auto")
    right.set_xticks(range(same.shape[1]))
    right.set_yticks(range(len(same)))
    right.set(xlabel="head", ylabel="layer", title="Two views of one sentence")
    figure.colorbar(image, ax=right, label="I, nats")
    figure.suptitle(title)
    return figure


def courses(
    histories: pd.DataFrame, panels: Mapping[str, str], *, title: str, by: str = "objective"
) -> Figure:
    """Draw figures over the steps of training, one line per run; the panels' scales differ.

    Args:
        histories: one row an evaluation: `by`, `seed`, `step` and the columns of `panels`. Names
            of objectives may begin with "your ": those lines are thick.
        panels: two to four columns to draw, with the labels of their axes.
        title: title of the figure.
        by: column that gives the colours.
    """
    columns = 3 if len(panels) == 3 else 2
    rows = -(-len(panels) // columns)
    size = {"figsize": (4.2 * columns, 3.2 * rows + 0.8), "layout": "constrained"}
    figure, grid = plt.subplots(rows, columns, **size)
    names = list(dict.fromkeys(histories[by]))
    spare = dict(zip(names, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(names))), strict=True))
    for axes, (column, label) in zip(grid.flat, panels.items(), strict=True):
        for (name, _), run in histories.groupby([by, "seed"], sort=False):
            run = run.dropna(subset=[column])
            yours = str(name).startswith("your ")
            colour = spare[name]
            if by == "objective":
                colour = COLOURS.get(name.removeprefix("your "), colour)
            style = {"color": colour, "lw": 4 if yours else 1.2, "alpha": 1 if yours else 0.7}
            axes.plot(run["step"], run[column], label=name, **style)
        axes.set(xlabel="training step", ylabel=label)
        axes.grid(alpha=0.3)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3))
    figure.suptitle(title)
    return figure


def differences(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw differences with their intervals, one line per task, two panels in a row.

    Args:
        table: `task`, `difference`, `low`, `high`, and `panel`.
        title: title of the figure.
    """
    names = list(dict.fromkeys(table["panel"]))
    rows = (len(names) + 1) // 2
    size = {"figsize": (10, 3.4 * rows + 0.5), "layout": "constrained", "squeeze": False}
    figure, panels = plt.subplots(rows, 2, sharey=True, sharex=True, **size)
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(panels.flat, names, strict=False):
        part = table[table["panel"] == name].iloc[::-1]
        lengths = [part["difference"] - part["low"], part["high"] - part["difference"]]
        axes.errorbar(
            part["difference"].to_numpy(),
            part["task"],
            xerr=np.array(lengths),
            fmt="o",
            color=BLUE,
            capsize=4,
        )
        axes.axvline(0, color=GREY, linestyle="--")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.supxlabel("points, with 95 % interval", fontsize="medium")
    figure.suptitle(title)
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
