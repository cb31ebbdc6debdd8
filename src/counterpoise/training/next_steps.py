"""What a finished run prints last: its worst class, and the commands that come next, with paths that work."""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from counterpoise.config_errors import quoted_override
from counterpoise.terminal import console, encodable
from counterpoise.training.checkpoints import LAST_CHECKPOINT
from counterpoise.training.results import RunResults
from counterpoise.training.shown_settings import shown_path, start_directory


def show_next_steps(folder: Path, arguments: Sequence[str], results: RunResults) -> None:
    """Print the worst class or label and the commands to report, predict, continue and compare.

    Args:
        folder: Run folder.
        arguments: Arguments of the run's command.
        results: Results of the run.
    """
    console.print(worst_class(results), highlight=False, markup=False)
    run, checkpoint = shlex.quote(shown_path(folder)), folder / "checkpoints" / LAST_CHECKPOINT
    steps = {}
    if (folder / "report.html").exists():
        steps["report"] = f"{python()} -m webbrowser {shlex.quote((folder / 'report.html').as_uri())}"
    steps["predict"] = f"{python()} -m counterpoise.predict {run} NEW.csv"
    if checkpoint.exists() and (longer := _longer(results)):
        folder_of_longer = folder if "ckpt=last" in arguments else None
        steps["train on"] = resume_command(arguments, checkpoint, folder_of_longer, longer)
    steps["compare"] = f"{python()} -m counterpoise.compare {run} OTHER_RUN"
    for name, command in steps.items():
        # Commands are not wrapped, so that they can be copied.
        line = Text.assemble((f"{name:<10}", "bold"), encodable(command))
        console.print(line, soft_wrap=True, highlight=False)


def worst_class(results: RunResults) -> str:
    """Return a sentence about the class with the lowest F1 on the test split; of equal ones, the most frequent one.

    If no test text has a mistake, the sentence says this.
    """
    table = results.table
    f1, tested = table.f1.to_numpy(), table.test_count.to_numpy()
    supported = [c for c in range(len(f1)) if tested[c] > 0]
    worst = min(supported, key=lambda c: (f1[c], -tested[c]))
    if f1[worst] == 1:
        return f"F1 of every {results.noun} with test texts: 1.000"
    equal = sum(f1[c] == f1[worst] for c in supported) - 1
    also = f"; {equal} more {results.noun if equal == 1 else results.nouns} with the same F1" if equal else ""
    return (
        f"worst {results.noun}: {encodable(results.labels[worst])}, F1 {f1[worst]:.3f} and recall "
        f"{table.recall.to_numpy()[worst]:.3f} on {tested[worst]:,} test texts ({results.counts[worst]:,} in training)"
        + also
    )


def _longer(results: RunResults) -> str | None:
    """Return the override that doubles a training; None if it stopped before its limit, where more would not help."""
    for key, done in (("max_steps", "steps"), ("max_epochs", "epochs")):
        limit = results.setting("trainer", key)
        if isinstance(limit, int) and limit > 0:
            return f"trainer.{key}={2 * limit}" if results.metrics[done] >= limit else None
    return None


def resume_command(arguments: Sequence[str], checkpoint: Path, folder: Path | None, *changes: str) -> str:
    """Return the command that resumes a run from a checkpoint, for a shell in the directory of the first command.

    Args:
        arguments: Arguments of the run's command. `ckpt`, `hydra.run.dir`, `hydra.mode` and the keys of `changes` are
            left out.
        checkpoint: Path of the checkpoint. `ckpt=last` is written for that of `folder`.
        folder: Folder of the resumed run; None: a new one.
        changes: Overrides that differ.
    """
    replaced = {"ckpt", "hydra.run.dir", "hydra.mode", *(change.partition("=")[0] for change in changes)}
    kept = [text for text in arguments if text.partition("=")[0].lstrip("+") not in replaced]
    own = folder is not None and checkpoint == folder / "checkpoints" / LAST_CHECKPOINT
    resume = ["ckpt=last" if own else _path_override("ckpt", checkpoint)]
    if folder is not None:
        resume.append(_path_override("hydra.run.dir", folder))
    script = shown_path(start_directory() / sys.argv[0])
    return " ".join([python(), shlex.quote(script), *map(shlex.quote, [*kept, *changes]), *resume])


def _path_override(key: str, path: Path) -> str:
    """Return KEY=PATH, quoted for Hydra and the shell where it must be.

    Only paths of Hydra's own settings are relative to the directory of the command with `hydra.job.chdir=true`.
    """
    as_given = not key.startswith("hydra.") and Path.cwd() != start_directory()
    shown = str(path) if as_given else shown_path(path)
    plain = re.fullmatch(r"[\w./-]+", shown, re.ASCII)
    return f"{key}={shown}" if plain else quoted_override(f"{key}={shown}") or shlex.quote(f"{key}={shown}")


def python() -> str:
    """Return "python" if it is this interpreter, otherwise a path of it, such as .venv/bin/python."""
    found = shutil.which("python")
    if found and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    return shlex.quote(shown_path(Path(sys.executable)))
