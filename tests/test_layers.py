"""Imports inside the package point downwards: a module imports only its own layer and the layers below."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "counterpoise"
LAYERS = [
    {"errors", "io", "saved_files", "csv_tables", "formulas", "terminal", "config_errors", "names", "stop_signals"},
    {"balance"},
    {"metrics"},
    {"data"},
    {"model"},
    {"analysis"},
    {"sweep"},
    {"training"},
    {"report"},
    {"commands"},
]
"""From the bottom to the top."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HYDRA_ALLOWED = {"sweep", "training", "report", "commands", "config_errors"}
"""Layers that may import Hydra; `config_errors` only inside functions."""


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all imported modules, with the imported name where it may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if layer(path) in LEVEL and "fork_template" not in path.parts]


def imports_from_above(source: str, name: str) -> list[str]:
    used = [module.split(".") for module in imports(ast.parse(source)) if module.startswith("counterpoise.")]
    return [".".join(parts) for parts in used if LEVEL.get(parts[1], len(LAYERS)) > LEVEL[name]]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_layer_and_those_below(path):
    assert not imports_from_above(path.read_text(encoding="utf-8"), layer(path))


def test_every_folder_of_the_package_has_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - set(LEVEL) <= {"conf"}


@pytest.mark.parametrize(
    "source",
    ["from counterpoise.model import module", "import counterpoise.training.run", "from counterpoise import report"],
)
def test_an_import_from_above_is_found(source):
    assert imports_from_above(source, "data")


def test_hydra_is_imported_only_by_training_and_the_layers_above():
    users = {
        layer(path)
        for path in MODULES
        if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(ast.parse(path.read_text("utf-8"))))
    }
    assert users <= HYDRA_ALLOWED


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("counterpoise.balance", ["pytorch_lightning", "hydra", "transformers"]),
        ("counterpoise.terminal", ["torch", "hydra", "omegaconf"]),
        ("counterpoise.errors", ["torch", "rich"]),
        (
            "hydra_plugins.counterpoise_launcher.launcher",
            ["torch", "pandas", "rich"],
        ),  # Hydra imports both at each start
        ("hydra_plugins.counterpoise_launcher.sweeper", ["torch", "pandas", "rich"]),
    ],
)
def test_a_lower_layer_is_importable_without_heavy_libraries(module, heavy):
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
