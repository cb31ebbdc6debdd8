import pytest
import torch

from counterpoise.terminal import command_line


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
