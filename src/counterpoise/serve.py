"""Entry point of `python -m counterpoise.serve`."""

from counterpoise.commands.serve import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
