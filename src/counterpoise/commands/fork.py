"""Write a small project that builds on this package: `python -m counterpoise.fork NAME DIR`.

The project holds its own data source, head and loss as examples, a `conf/` that overrides the package's groups, and the
package as a pinned dependency.
"""

import keyword
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path

from counterpoise.commands.arguments import Parser
from counterpoise.errors import UserError

PLACEHOLDER = "mytask"
PINNED = ("torch", "pytest")
"""Packages whose installed version the requirements pin beside this package."""


def main() -> None:
    """Read the command line and write the project."""
    parser = Parser(prog="counterpoise.fork", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="import name of the new package, such as support_tickets")
    parser.add_argument("directory", type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument("--wheel", type=Path, help="wheel of counterpoise to install (default: the package index)")
    arguments = parser.parse_args()
    write_project(arguments.name, arguments.directory, arguments.wheel)
    print(f"wrote {arguments.directory}: cd {arguments.directory} && make train")


def write_project(name: str, directory: Path, wheel: Path | None = None) -> None:
    """Write a project named `name` into `directory`.

    Args:
        name: Import name of the project's package.
        directory: Folder to write. Must not exist or be empty.
        wheel: Wheel of this package, copied to `wheels/` of the project. Defaults to a version of the package index.

    Raises:
        UserError: The name is not a lower-case Python identifier, or the folder is not empty.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower() or name == "counterpoise":
        raise UserError(f"NAME={name}: use a lower-case Python identifier, such as support_tickets")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"DIR={directory} exists and is not an empty folder: name another one")
    requirement = f"counterpoise=={version('counterpoise')}"
    if wheel is not None:
        if not wheel.is_file():
            raise UserError(f"--wheel {wheel}: no such file")
        requirement = f"./wheels/{wheel.name}"
    with as_file(files("counterpoise.commands") / "fork_template") as template:
        for source in sorted(template.rglob("*")):
            if source.is_dir() or "__pycache__" in source.parts:
                continue
            target = directory / str(source.relative_to(template)).replace(PLACEHOLDER, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8").replace("MyTask", _class_name(name)).replace(PLACEHOLDER, name)
            target.write_text(text, encoding="utf-8")
    if wheel is not None:
        (directory / "wheels").mkdir()
        (directory / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    pins = [f"{package}=={version(package).partition('+')[0]}" for package in PINNED]
    lines = ["# The package is pinned: an upgrade is a change of this file.", *pins, requirement, "-e ."]
    (directory / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
