"""Load one or all of SentEval's tasks, STS and transfer alike."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from micse_utils.checks import check_sequence, shown
from micse_utils.sources.choose import choose
from micse_utils.sources.hub import HubError
from micse_utils.sources.senteval_archive import from_hub

Task = TypeVar("Task")


def load_task(
    need: str,
    task: str,
    source: str | Path,
    revision: str | None,
    *,
    official: Mapping[str, Callable[[Path], Task]],
    packaged: Mapping[str, Callable[[], Task]],
) -> Task:
    """Load one task; `need` names what it is, for the messages.

    `official` reads each of SentEval's tasks from its folder, `packaged` loads each stand-in.
    """
    if task not in (known := [*official, *packaged]):
        raise ValueError(f"task must be one of {', '.join(known)}, got {shown(task)}")
    if task in packaged:
        return packaged[task]()

    def package() -> Task:
        raise ValueError(f"no package carries {task}; there are {', '.join(packaged)}")

    return choose(
        need, source, folder=official[task], hub=lambda: from_hub(official[task], revision),
        package=package, stand_in=False, own="MICSE_SENTEVAL",
    )  # fmt: skip


def load_tasks(
    tasks: Sequence[str] | None,
    source: str | Path,
    load: Callable[[str], Task],
    *,
    official: Sequence[str],
    packaged: Sequence[str],
) -> dict[str, Task]:
    """Load the given tasks; by default all that the source has, and print the missing ones."""
    if tasks is not None:
        check_sequence("tasks", tasks)
        return {task: load(task) for task in tasks}
    found, missing = {}, {}
    for task in official if source != "package" else ():
        try:
            found[task] = load(task)
        except (FileNotFoundError, HubError) as error:
            missing[task] = getattr(error, "reason", error)
    if missing:
        print(f"missing: {', '.join(missing)} (the first: {next(iter(missing.values()))})")
    if not found and source not in ("auto", "package"):
        raise FileNotFoundError(f"{source} has none of {', '.join(official)}")
    return found or {task: load(task) for task in packaged}


def senteval_path(path: Path, relative: str) -> Path:
    """Return a folder or file of SentEval, in `path` or its `data` and `downstream` folders."""
    places = [path / "data" / "downstream", path / "downstream", path]
    found = next((place / relative for place in places if (place / relative).exists()), None)
    if found is None:
        raise FileNotFoundError(f"no {relative} in {path}")
    return found
