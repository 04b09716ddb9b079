"""Figures of training: the idea, attention in two views, courses, scores from different starts."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import norm

from micse_utils.plotting.style import BLUE, GREEN, GREY, ORANGE, PINK, describe, panels, sheet

COLOURS = {
    "miCSE": BLUE, "SimCSE": ORANGE, "SimCSE at miCSE's settings": PINK, "AMI alone": GREEN,
}  # fmt: skip


def objective_diagram() -> Figure:
    """Draw miCSE: a sentence, two dropout passes, what each term compares, and the loss."""
    figure, axes = sheet(10, 4.2)
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str = GREY) -> Text:
        style = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": colour, "lw": 2}
        return axes.text(x, y, text, ha="center", va="center", fontsize=12, bbox=style)

    def arrow(start: Text, end: Text, colour: str = GREY) -> None:
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end.get_position(), start.get_position(), arrowprops=style | ends)

    sentence = box(0.7, 2, "sentence")
    loss = box(9.4, 2, "loss =\nInfoNCE\n− λ · AMI")
    attention = box(7.4, 3, "AMI:\nalike?", BLUE)
    vectors = box(7.4, 1, "InfoNCE:\nsame sentence?", ORANGE)
    for y, view in ((3, "first"), (1, "second")):
        encoder = box(2.7, y, f"encoder,\n{view} dropout")
        arrow(sentence, encoder)
        for top, output, term, colour in (
            (y / 2 + 2, "attention", attention, BLUE),
            (y / 2, "[CLS]", vectors, ORANGE),
        ):
            middle = box(5.2, top, f"{output}, {view}")
            arrow(encoder, middle)
            arrow(middle, term, colour)
    arrow(attention, loss, BLUE)
    arrow(vectors, loss, ORANGE)
    return figure


def attention_views(
    first: np.ndarray, second: np.ndarray, tokens: Sequence[str], *, title: str
) -> Figure:
    """Draw the attention of one head, [query, key], in two dropout views.

    Crosses mark what was dropped (0). Colours are logarithmic: most probabilities are small.
    """
    figure, both = sheet(10, 5, 1, 2, title, sharey=True)
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
    return figure


def by_hand(first: np.ndarray, second: np.ndarray, tokens: Sequence[str]) -> Figure:
    """Draw AMI of one head, [query, key]: two views, what both kept, and the logarithms of it."""
    figure, (left, middle, right, dots) = sheet(10, 2.9, 1, 4)
    kept = (first > 0) & (second > 0)
    for axes, view, name in ((left, first, "1: view one"), (middle, second, "1: view two")):
        axes.imshow(view, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(view):
            style = {"ha": "center", "va": "center", "color": "k" if value < 0.6 else "w"}
            axes.text(column, row, f"{value:.2f}" if value else "×", **style)
        axes.set_title(name)
    right.imshow(kept, cmap="Greens", vmin=0, vmax=2)
    right.set_title(f"2: kept in both, {kept.sum()} of {kept.size}")
    for axes in (left, middle, right):
        axes.set_xticks(range(len(tokens)), tokens)
        axes.set_yticks(range(len(tokens)), tokens if axes is left else [])
    agreement(dots, np.log(first[kept]), np.log(second[kept]))
    dots.set(xlabel="view one", ylabel="view two")
    return figure


def matrices(
    values: Mapping[str, np.ndarray], *, title: str, label: str, **scale: object
) -> Figure:
    """Draw square matrices in a row, in one scale of colours; `scale` is what `imshow` takes."""
    figure, row = sheet(2.1 * len(values), 2.6, 1, len(values), title, squeeze=False)
    for axes, (name, matrix) in zip(row[0], values.items(), strict=True):
        image = axes.imshow(matrix, cmap="cividis", interpolation="nearest", **scale)
        axes.set_title(name, fontsize="medium")
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=row, label=label, shrink=0.8)
    return figure


def agreement(
    axes: Axes, first: np.ndarray, second: np.ndarray, apart: np.ndarray | None = None
) -> tuple[float, float]:
    """Draw each position's probability in both views; return rho and I, in nats.

    `first` and `second` are log attention probabilities of the positions kept in both. Those
    `apart` (bool), such as attention to [CLS], get a different colour.
    """
    rho = np.corrcoef(first, second)[0, 1]
    information = -0.5 * np.log(max(1 - rho**2, 1e-6))
    ends = np.exp([min(first.min(), second.min()) - 0.4, 0.4])
    axes.plot(ends, ends, color=GREY, linestyle="--", lw=1, label="the same in both views")
    axes.loglog(np.exp(first), np.exp(second), "o", color=BLUE, alpha=0.5, markersize=5)
    if apart is not None:
        axes.loglog(np.exp(first[apart]), np.exp(second[apart]), "o", color=ORANGE, markersize=5)
    found, probability = f"ρ = {rho:.3f}, I = {information:.2f} nats", "attention probability"
    describe(axes, found, xlabel=f"{probability}, first view", ylabel=f"{probability}, second view")
    return rho, information


def quantiles(axes: Axes, values: np.ndarray, apart: np.ndarray | None = None) -> None:
    """Draw a Q-Q plot: standardised values against a normal distribution; `apart` as above."""
    expected = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    axes.plot(expected, expected, color=GREY, linestyle="--", lw=1, label="normal")
    order, standard = np.argsort(values), (values - values.mean()) / values.std()
    colours = BLUE if apart is None else np.where(apart[order], ORANGE, BLUE)
    axes.scatter(expected, standard[order], 20, colours)
    labels = {"xlabel": "quantile of a normal distribution"}
    describe(axes, "Are they Gaussian?", ylabel="log-probability, standardised", **labels)
    axes.legend()


def heads(same: np.ndarray, different: np.ndarray, *, title: str) -> Figure:
    """Draw where the heads lie on I(rho), and I by layer and head.

    `same` and `different` are correlations, [layers, heads], of two views of one sentence and of
    two different sentences of one length.
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
    """Draw two to four columns over the steps of training, one line per run.

    `histories` has a row an evaluation: `seed`, `step`, `columns` (here with the labels of their
    axes) and `by`, which gives the colours. Lines of names that begin with "your " are thick.
    """
    across = 2 + len(columns) % 2
    figure, grid = panels([""] * len(columns), title, columns=across, shared=False)
    figure.set_size_inches(9, figure.get_figheight())
    names = list(dict.fromkeys(histories[by]))
    spare = dict(zip(names, cycle((BLUE, ORANGE, GREEN, PINK, "black"))))
    fixed = COLOURS if by == "objective" else {}
    for axes, (column, label) in zip(grid, columns.items(), strict=True):
        for (name, _), run in histories.groupby([by, "seed"], sort=False):
            run = run.dropna(subset=[column])
            yours = name.startswith("your ")
            colour = fixed.get(name.removeprefix("your "), spare[name])
            style = {"color": colour, "lw": 4 if yours else 1.2, "alpha": 1 if yours else 0.7}
            axes.plot(run["step"], run[column], label=name, **style)
        axes.set(xlabel="training step", ylabel=label)
    handles, labels = grid[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3))
    return figure


def absolute(scores: pd.DataFrame, *, title: str, label: str) -> Figure:
    """Draw scores of encoders, a panel a start, a line a task: a dot a seed, a bar for the mean.

    `scores`: `start`, `task`, `encoder` and `score`, a row a seed; encoders without a colour of
    their own are untrained ones.
    """
    names, tasks = (list(dict.fromkeys(scores[column])) for column in ("start", "task"))
    figure, grid = panels(names, title, columns=len(names))
    figure.set_size_inches(3.1 * len(names), 1.6 + 0.9 * len(tasks))
    spare = {"untrained": GREY, "as shipped": "black"}
    for axes, start in zip(grid, names, strict=True):
        part = scores[scores["start"] == start]
        encoders = list(dict.fromkeys(part["encoder"]))
        for number, encoder in enumerate(encoders):
            own = part[part["encoder"] == encoder]
            colour = (COLOURS | spare)[encoder]
            at = np.array([tasks.index(task) for task in own["task"]])
            at = at + 0.14 * (number - len(encoders) / 2)
            axes.plot(own["score"], at, ".", color=colour, alpha=0.4)
            means = own.assign(at=at).groupby("at")["score"].mean()
            axes.plot(means, means.index, "|", color=colour, ms=9, mew=2.5, label=encoder)
        axes.set_yticks(range(len(tasks)), tasks)
        across = axes.get_yaxis_transform()
        axes.hlines(np.arange(len(tasks) - 1) + 0.5, 0, 1, color=GREY, lw=0.8, transform=across)
    grid[0].invert_yaxis()
    grid[len(names) // 2].set_xlabel(label)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def learning_curve(
    runs: pd.DataFrame, *, title: str, label: str, published: Mapping[str, float] | None = None
) -> Figure:
    """Draw scores against the number of sentences: lines of means, seeds as dots; a panel a start.

    `runs`: `start`, `objective`, `size`, `seed`, `score`; untrained encoders have no size.
    `published` scores are dotted lines in the panel of `bert`.
    """
    trained = runs.dropna(subset="size")
    starts = list(dict.fromkeys(trained["start"]))
    size, shared = (2 + 4 * len(starts), 4.2), {"sharey": True, "squeeze": False}
    figure, [row] = sheet(*size, 1, len(starts), title, **shared)
    for axes, start in zip(row, starts, strict=True):
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
    row[0].set_ylabel(label)
    return figure
