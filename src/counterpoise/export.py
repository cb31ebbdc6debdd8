"""Entry point of `python -m counterpoise.export`."""

from counterpoise.commands.export import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
