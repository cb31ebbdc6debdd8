"""Entry point of `python -m counterpoise.fork`."""

from counterpoise.commands.fork import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
