"""Figures of training: the idea, attention in two views, courses, scores."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.stats import norm

from micse_utils.plotting.style import BLUE, GREY, ORANGE, SERIES, describe, panels, sheet

OBJECTIVES = "miCSE", "SimCSE", "AMI alone", "SimCSE at miCSE's settings"
COLOURS = dict(zip(OBJECTIVES, SERIES, strict=True))
ATTENTION = "token attended to", "attending token", "attention probability"  # x, y, colours
PROBABILITY = LogNorm(vmin=1e-4, vmax=1, clip=True)


def objective_diagram() -> Figure:
    """Draw miCSE: a sentence, two dropout passes, what each term compares, and the loss."""
    figure, axes = sheet(10, 4.2)
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.axis("off")

    def box(x, y, text, colour=GREY):
        style = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": colour, "lw": 2}
        return axes.text(x, y, text, ha="center", va="center", fontsize=12, bbox=style)

    def arrow(start, end, colour=GREY):
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end.get_position(), start.get_position(), arrowprops=style | ends)

    sentence = box(0.7, 2, "sentence")
    loss = box(9.4, 2, "loss =\nInfoNCE\n− λ · AMI")
    attention = box(7.4, 3, "AMI:\nalike?", BLUE)
    vectors = box(7.4, 1, "InfoNCE:\nsame sentence?", ORANGE)
    for y, view in ((3, "first"), (1, "second")):
        encoder = box(2.7, y, f"encoder,\n{view} dropout")
        maps, cls = box(5.2, y / 2 + 2, f"attention, {view}"), box(5.2, y / 2, f"[CLS], {view}")
        for middle in (maps, cls):
            arrow(encoder, middle)
        arrow(sentence, encoder)
        arrow(maps, attention, BLUE)
        arrow(cls, vectors, ORANGE)
    arrow(attention, loss, BLUE)
    arrow(vectors, loss, ORANGE)
    return figure


def attention_views(first: np.ndarray, second: np.ndarray, tokens: list, *, title: str) -> Figure:
    """Draw one head's attention, [query, key], in two dropout views; crosses are what they lost."""
    views = {"view one": first, "view two": second}
    figure = matrices(views, title=title, labels=ATTENTION, tokens=tokens, norm=PROBABILITY)
    for axes, view in zip(figure.axes[:2], views.values(), strict=True):
        axes.plot(*np.nonzero(view.T == 0), "x", color="white", markersize=7, markeredgewidth=2)
    return figure


def by_hand(first: np.ndarray, second: np.ndarray, tokens: list) -> Figure:
    """Draw AMI of one head, [query, key]: two views, what both kept, and the logarithms of it."""
    figure, (left, middle, right, dots) = sheet(11, 3.1, 1, 4)
    kept, places = (first > 0) & (second > 0), range(len(tokens))
    for axes, view, name in ((left, first, "view one"), (middle, second, "view two")):
        axes.imshow(view, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(view):
            style = {"ha": "center", "va": "center", "color": "k" if value < 0.6 else "w"}
            axes.text(column, row, f"{value:.2f}" if value else "×", **style)
        axes.set_title(f"probability, {name}")
    right.imshow(kept, cmap="Greens", vmin=0, vmax=2)
    right.set_title(f"kept in both: {kept.sum()} of {kept.size}")
    for axes in (left, middle, right):
        axes.set(xticks=places, xticklabels=tokens, xlabel=ATTENTION[0])
        axes.set_yticks(places, tokens if axes is left else [])
    left.set_ylabel(ATTENTION[1])
    agreement(dots, np.log(first[kept]), np.log(second[kept]))
    return figure


def matrices(of: dict, *, title: str, labels: tuple, tokens: list = (), **scale: object) -> Figure:
    """Draw square matrices in a row, in one scale of `imshow`; labels of x, y and the colours."""
    places = range(len(tokens))
    figure, row = sheet(10, 9 / len(of) + 0.7, 1, len(of), title, squeeze=False, sharey=True)
    for axes, (name, matrix) in zip(row[0], of.items(), strict=True):
        image = axes.imshow(matrix, cmap="cividis", interpolation="nearest", **scale)
        axes.set_xticks(places, tokens, rotation=60, ha="right")
        axes.set(title=name, xlabel=labels[0], yticks=places, yticklabels=tokens)
    row[0, 0].set_ylabel(labels[1])
    figure.colorbar(image, ax=row, label=labels[2], shrink=0.8)
    return figure


def agreement(
    axes: Axes, first: np.ndarray, second: np.ndarray, apart: np.ndarray | None = None
) -> tuple[float, float]:
    """Draw log-probabilities of the positions that two views kept; return rho and I, in nats.

    Positions `apart` (bool), those of attention to [CLS], get a different colour.
    """
    rho = np.corrcoef(first, second)[0, 1]
    information = -0.5 * np.log(max(1 - rho**2, 1e-6))
    ends = np.exp([min(first.min(), second.min()) - 0.4, 0.4])
    axes.plot(ends, ends, color=GREY, linestyle="--", lw=1, label="equal in both views")
    axes.loglog(np.exp(first), np.exp(second), "o", color=BLUE, alpha=0.5, ms=5, label="a position")
    if apart is not None:
        of_cls = np.exp(first[apart]), np.exp(second[apart])
        axes.loglog(*of_cls, "o", color=ORANGE, ms=5, label="to [CLS]")
    axes.legend(loc="upper left", fontsize="small")
    found, probability = f"ρ = {rho:.3f}, I = {information:.2f} nats", "attention probability"
    describe(axes, found, xlabel=f"{probability}, view one", ylabel=f"{probability}, view two")
    return rho, information


def quantiles(axes: Axes, values: np.ndarray, apart: np.ndarray) -> None:
    """Draw a Q-Q plot: standardised values against a normal distribution; `apart` as above."""
    expected = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    axes.plot(expected, expected, color=GREY, linestyle="--", lw=1, label="if Gaussian")
    order, standard = np.argsort(values), (values - values.mean()) / values.std()
    axes.scatter(expected, standard[order], 20, np.where(apart[order], ORANGE, BLUE))
    describe(axes, "Are they Gaussian?", xlabel="quantile of a normal distribution")
    axes.set_ylabel("log-probability of view one, standardised")
    axes.legend()


def heads(same: np.ndarray, different: np.ndarray, *, title: str) -> Figure:
    """Draw correlations of two views, [layers, heads], of one sentence and of different ones."""
    names = ("One dot a head", "Two views of one sentence")
    figure, (left, right) = panels(names, title, shared=False)
    line = np.linspace(0, 0.995, 200)
    left.plot(line, -0.5 * np.log(1 - line**2), color=GREY, label="I = −½ log(1 − ρ²)")
    for rho, name, colour in ((same, names[1].lower(), BLUE), (different, "two sentences", ORANGE)):
        rho = np.abs(rho.ravel())
        left.plot(rho, -0.5 * np.log(1 - rho**2), "o", color=colour, alpha=0.6, label=name)
    left.set(xlabel="correlation |ρ| of log-attention", ylabel="mutual information I, nats")
    left.legend()
    image = right.imshow(-0.5 * np.log(1 - same**2), cmap="cividis", aspect="auto")
    right.grid(visible=False)
    right.set(xlabel="head", ylabel="layer", xticks=range(same.shape[1]), yticks=range(len(same)))
    figure.colorbar(image, ax=right, label="I, nats")
    return figure


def courses(runs: pd.DataFrame, columns: dict, *, title: str, by: str = "objective") -> Figure:
    """Draw two to four columns (with the labels of their axes) by `step`, a line a run.

    Runs differ in `seed` and `by`: up to five names, or objectives. "your " ones are thick.
    """
    figure, grid = panels([""] * len(columns), title, columns=2 + len(columns) % 2, shared=False)
    figure.set_size_inches(9, figure.get_figheight())
    names = runs[by].str.removeprefix("your ").unique()
    colours = COLOURS if by == "objective" else dict(zip(names, (*SERIES, "black"), strict=False))
    for axes, (column, label) in zip(grid, columns.items(), strict=True):
        for (name, _), run in runs.groupby([by, "seed"], sort=False):
            run = run.dropna(subset=column)
            width, alpha = (4, 1) if name.startswith("your ") else (1.2, 0.7)
            style = {"color": colours[name.removeprefix("your ")], "lw": width, "alpha": alpha}
            axes.plot(run["step"], run[column], label=name, **style)
            if run.empty:
                axes.set_title("recorded runs only")
        axes.set(xlabel="training step", ylabel=label)
    handles, labels = grid[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3))
    return figure


def absolute(scores: pd.DataFrame, *, title: str, label: str) -> Figure:
    """Draw each `score` as a dot, means as bars: a panel a `start`, a colour an `encoder`."""
    starts, tasks = scores["start"].unique(), list(scores["task"].unique())
    figure, grid = panels([f"from {start}" for start in starts], title, columns=len(starts))
    figure.set_size_inches(3.1 * len(starts), 1.6 + 0.9 * len(tasks))
    colours = COLOURS | {"untrained": GREY, "as shipped": "black"}
    for axes, (_, part) in zip(grid, scores.groupby("start", sort=False), strict=True):
        encoders = part.groupby("encoder", sort=False)
        for number, (encoder, own) in enumerate(encoders):
            at = own["task"].map(tasks.index) + 0.14 * (number - len(encoders) / 2)
            axes.plot(own["score"], at, ".", color=colours[encoder], alpha=0.4)
            means = own.groupby(at)["score"].mean()
            axes.plot(means, means.index, "|", color=colours[encoder], ms=9, mew=2.5, label=encoder)
        axes.set_yticks(range(len(tasks)), tasks)
        across = axes.get_yaxis_transform()
        axes.hlines(np.arange(len(tasks) - 1) + 0.5, 0, 1, color=GREY, lw=0.8, transform=across)
    grid[0].invert_yaxis()
    grid[len(starts) // 2].set_xlabel(label)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def learning_curve(
    runs: pd.DataFrame, *, title: str, label: str, by: str = "start", published: dict | None = None
) -> Figure:
    """Draw each `score` by `size` as a dot, means as lines: a panel a `start`, or a `task`.

    Untrained encoders have no size. `published` scores are dotted lines in the panel of `bert`.
    """
    trained = runs.dropna(subset="size")
    names, sizes = trained[by].unique(), sorted(trained["size"].unique())
    figure, row = panels(names, title, columns=len(names), shared=by == "start")
    figure.set_size_inches(2 + 4 * len(names), 4.2)
    for axes, panel in zip(row, names, strict=True):
        for objective, own in trained[trained[by] == panel].groupby("objective", sort=False):
            means, colour = own.groupby("size")["score"].mean(), COLOURS[objective]
            axes.plot(means.index, means, "-", color=colour, label=objective)
            axes.plot(own["size"], own["score"], "o", color=colour, alpha=0.4, markersize=4)
        for value in runs.loc[(runs[by] == panel) & runs["size"].isna(), "score"]:
            axes.axhline(value, color=GREY, linestyle="--", label="untrained")
        for name, value in (published or {}).items() if panel == "bert" else ():
            axes.axhline(value, color=GREY, linestyle=":", label=name)
        axes.set(xscale="log", xlabel="distinct sentences")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    row[0].set_ylabel(label)
    return figure
