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
from counterpoise.training.results import RunResults
from counterpoise.training.shown_settings import shown_path


def show_next_steps(folder: Path, overrides: Sequence[str], results: RunResults) -> None:
    """Print the worst class or label and the commands to report, predict, continue and compare.

    Args:
        folder: Run folder.
        overrides: Overrides of the run.
        results: Results of the run.
    """
    console.print(worst_class(results), highlight=False, markup=False)
    run, checkpoint = shlex.quote(shown_path(folder)), folder / "checkpoints" / "last.ckpt"
    steps = {}
    if (folder / "report.html").exists():
        steps["report"] = f"{python()} -m webbrowser {shlex.quote((folder / 'report.html').as_uri())}"
    steps["predict"] = f"{python()} -m counterpoise.predict {run} NEW.csv"
    if checkpoint.exists() and (longer := _longer(results)):
        steps["train on"] = resume_command(checkpoint, overrides, longer)
    steps["compare"] = f"{python()} -m counterpoise.compare {run} OTHER_RUN"
    for name, command in steps.items():
        # Commands are not wrapped, so that they can be copied.
        line = Text.assemble((f"{name:<10}", "bold"), encodable(command))
        console.print(line, soft_wrap=True, highlight=False)


def worst_class(results: RunResults) -> str:
    """Return a sentence about the class with the lowest F1 on the test split; of equal ones, the most frequent one."""
    table = results.table
    f1, tested = table.f1.to_numpy(), table.test_count.to_numpy()
    supported = [c for c in range(len(f1)) if tested[c] > 0]
    worst = min(supported, key=lambda c: (f1[c], -tested[c]))
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


def resume_command(checkpoint: Path, overrides: Sequence[str], *changes: str) -> str:
    """Return the command that resumes a run from a checkpoint with the overrides of the run and further ones.

    A run with `ckpt=last` is resumed in its folder.

    Args:
        checkpoint: Path of last.ckpt.
        overrides: Overrides of the run. `ckpt` and the keys of `changes` are left out.
        changes: Overrides that differ.
    """
    in_folder = "ckpt=last" in overrides
    path = shown_path(checkpoint.parent.parent if in_folder else checkpoint)
    resume = f"{'hydra.run.dir' if in_folder else 'ckpt'}={path}"
    if not re.fullmatch(r"[\w./-]+", path, re.ASCII):
        resume = quoted_override(resume) or resume
    replaced = {change.partition("=")[0] for change in changes} | (set() if in_folder else {"ckpt"})
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in replaced]
    return " ".join(
        [python(), shlex.quote(shown_path(Path(sys.argv[0]).absolute())), *map(shlex.quote, [*kept, *changes]), resume]
    )


def python() -> str:
    """Return "python" if it is this interpreter, otherwise a path of it, such as .venv/bin/python."""
    found = shutil.which("python")
    if found and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    return shlex.quote(shown_path(Path(sys.executable)))
