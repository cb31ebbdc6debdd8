"""Output in any encoding, tables of 80 columns, and the error boundary of the command line."""

import io
import logging
import sys

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from commandline import printed
from counterpoise import terminal
from counterpoise.terminal import command_line, name_cells, progress, status

ENCODINGS = ["ascii", "latin-1", "cp1252", "gbk", "cp932", "koi8-r", "utf-8"]
NAMES = ["产品", "価格", "élève €", "ж🙂", "a\tb", "zero\u200bwidth", "\x1b[31mred", "[bold]"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_bars_and_spinners_are_printed_in_any_encoding(encoding, monkeypatch):
    def main() -> None:
        table = Table()
        table.add_column("class")
        for cell in name_cells(NAMES):
            table.add_row(cell)
        terminal.console.print(table)
        terminal.console.print("0.5 ± 0.1 • … ─")
        with status("working"):
            pass
        with progress() as display:
            display.advance(display.add_task("working", total=1))
        print(*NAMES)

    shown = printed(main, encoding, monkeypatch)
    assert "?" not in shown
    table = [line for line in shown.splitlines() if line.startswith(("|", "│"))]
    assert len({cell_len(line) for line in table}) == 1
    assert len({line.strip("|│ ") for line in table}) >= len(NAMES)
    assert ("产品" in shown) == (encoding in ("gbk", "utf-8"))
    assert ("± " in shown) == (encoding not in ("ascii", "koi8-r"))


@pytest.mark.parametrize("pattern", ["devel::lang:{}", "{}::implemented-in:python", "很长的共同前缀{}"])
def test_a_narrow_column_keeps_the_part_that_distinguishes_its_names(pattern):
    names = [pattern.format(letter) for letter in "abc"]
    console, table = Console(width=14, record=True, file=io.StringIO()), Table()
    table.add_column("class")
    for cell in name_cells(names):
        table.add_row(cell)
    console.print(table)
    lines = [line for line in console.export_text().splitlines() if "…" in line]
    assert len(set(lines)) == 3
    assert all(cell_len(line) <= 14 for line in lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("redirected", [False, True])
def test_log_messages_appear_above_an_open_bar_or_in_the_file_of_standard_error(redirected, monkeypatch):
    screen, errors = Terminal(), io.StringIO() if redirected else Terminal()
    monkeypatch.setattr(sys, "stderr", errors)
    log = logging.Logger("test")
    log.addHandler(terminal.LogConsole())
    with Progress(console=Console(file=screen, force_terminal=True, width=60), auto_refresh=False) as bar:
        bar.add_task("working")
        bar.refresh()
        log.warning("careful")
    log.warning("done")
    shown = Text.from_ansi(screen.getvalue().replace("\r", "\n")).plain.splitlines()
    assert errors.getvalue() == ("careful\ndone\n" if redirected else "done\n")
    assert ("careful" in shown) != redirected


def test_arguments_that_the_locale_cannot_decode_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "data.train=\udcc3\udca9.csv"])
    with pytest.raises(SystemExit) as stop:
        command_line(lambda: None)
    assert stop.value.code == 2
    assert "data.train=é.csv" in (line := capsys.readouterr().err)
    assert "PYTHONUTF8=1" in line


def test_ctrl_c_prints_one_line_and_exits_with_130(capsys):
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command_line(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_names_the_settings_to_lower(error, capsys):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        command_line(main)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory: lower micro_batch_size")
    assert line.count("\n") == 1
