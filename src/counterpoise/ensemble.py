"""Entry point of `python -m counterpoise.ensemble`."""

from counterpoise.commands.ensemble import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
