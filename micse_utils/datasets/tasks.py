"""What the STS and transfer tasks of SentEval share: how one, or all, of them are loaded."""

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
    """Load one task.

    Args:
        need: what is loaded, for the messages.
        task, source, revision: as for `load_sts` and `load_transfer`.
        official: reads each of SentEval's tasks from SentEval's folder.
        packaged: loads each of the stand-ins.
    """
    if task not in (known := [*official, *packaged]):
        raise ValueError(f"task={shown(task)} is none of {', '.join(known)}")
    if task in packaged:
        return packaged[task]()

    def package() -> Task:
        raise ValueError(f"no package carries {task}; there are {', '.join(packaged)}")

    return choose(
        need,
        source,
        folder=official[task],
        hub=lambda: from_hub(official[task], revision),
        package=package,
        stand_in=False,
        own="MICSE_SENTEVAL",
    )


def load_tasks(
    tasks: Sequence[str] | None,
    source: str | Path,
    load: Callable[[str], Task],
    *,
    official: Sequence[str],
    packaged: Sequence[str],
) -> dict[str, Task]:
    """Load the tasks asked for; by default all that the source has, and print which it has not."""
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
    """Return a folder or file of SentEval, wherever in `path` its `downstream` folder starts."""
    places = [path / "data" / "downstream", path / "downstream", path]
    found = next((place / relative for place in places if (place / relative).exists()), None)
    if found is None:
        raise FileNotFoundError(f"no {relative} in {path}")
    return found
