import pytest

from counterpoise.cli import command_line


def test_ctrl_c_is_one_line_and_exit_code_130(capsys):
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command_line(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
