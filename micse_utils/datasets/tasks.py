"""Several STS or transfer tasks at once: those asked for, or all that a source has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from micse_utils.checks import shown, whole
from micse_utils.datasets.sts import PACKAGED_STS, STS_TASKS, Pairs, load_sts
from micse_utils.datasets.texts import drawn_rows
from micse_utils.datasets.transfer import (
    PACKAGED_TRANSFER,
    TRANSFER_TASKS,
    Classification,
    load_transfer,
)
from micse_utils.sources.hub import HubError

Task = TypeVar("Task", Pairs, Classification)


def load_sts_tasks(
    tasks: Sequence[str] | None = None, source: str | Path = "auto"
) -> dict[str, Pairs]:
    """The pairs of several STS tasks.

    Args:
        tasks: of `STS_TASKS` and `PACKAGED_STS`; by default all that the source has, and a line
            says which it has not.
        source: as for `load_sts`; `package`, and `auto` where there is nothing else, take
            `PACKAGED_STS`.

    Raises:
        ValueError: an unknown task, or a damaged file.
        FileNotFoundError, HubError, FetchError: a task asked for by name is not there.
    """
    return _load_all(tasks, source, partial(load_sts, source=source), STS_TASKS, PACKAGED_STS)


def load_transfer_tasks(
    tasks: Sequence[str] | None = None,
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Classification]:
    """The sentences of several transfer tasks.

    Args:
        tasks, source: as for `load_sts_tasks`, with `TRANSFER_TASKS` and `PACKAGED_TRANSFER`.
        limit: take a sample of this many of the sentences of tasks without a test set.
        seed: of that sample.

    Raises:
        ValueError: an unknown task, or a damaged file.
        FileNotFoundError, HubError, FetchError: a task asked for by name is not there.
    """

    def load(task: str) -> Classification:
        return _sample(load_transfer(task, source=source), limit, seed)

    return _load_all(tasks, source, load, TRANSFER_TASKS, PACKAGED_TRANSFER)


def _load_all(
    tasks: Sequence[str] | None,
    source: str | Path,
    load: Callable[[str], Task],
    official: Iterable[str],
    packaged: Iterable[str],
) -> dict[str, Task]:
    if isinstance(tasks, (str, bytes)) or not isinstance(tasks, (Iterable, type(None))):
        raise TypeError(
            f"tasks={shown(tasks)} is no list of names; there are {', '.join(official)}"
        )
    if tasks is not None:
        return {task: load(task) for task in tasks}
    found, missing = {}, {}
    for task in official if source != "package" else ():
        try:
            found[task] = load(task)
        except (FileNotFoundError, HubError) as error:
            missing[task] = getattr(error, "reason", error)
    if missing:
        print(f"not there: {', '.join(missing)} (the first: {next(iter(missing.values()))})")
    if not found and source not in ("auto", "package"):
        raise FileNotFoundError(f"{source} has none of {', '.join(official)}")
    return found or {task: load(task) for task in packaged}


def _sample(data: Classification, limit: int | None, seed: int) -> Classification:
    if limit is None or data.test.any() or whole("limit", limit, 1) >= len(data.labels):
        return data
    rows = drawn_rows(len(data.labels), limit, seed)
    first = [data.first[row] for row in rows]
    return replace(data, first=first, labels=data.labels[rows], test=data.test[rows])
