"""Time of training steps in bf16-mixed as a fraction of their time in fp32, on the CPU.

`python benchmarks/precision.py` trains the default encoder on batches of Reuters R52 in both precisions, in turn, in a
plain loop over this project's batches. It also prints the measurement by which `trainer.precision=auto` chooses: steps
of one layer of the encoder's size.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measure import interleaved, ratio, report
from training_candidates import Setting, bare, prepare

from counterpoise.terminal import command_line
from counterpoise.training.precision import BF16, FP32, bf16_ratio
from training import WARM_UP, Sample


def seconds_per_step(setting: Setting, sample: Sample) -> float:
    """Return the mean duration of a training step."""
    ends = bare(setting, sample).ends
    return (ends[-1] - ends[WARM_UP - 1]) / sample.steps


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-length", type=int, default=64, help="maximum number of tokens per text (default: 64)")
    parser.add_argument("--steps", type=int, default=16, help="measured steps of 16 examples per repeat (default: 16)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats (default: 5)")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    setting = prepare("reuters_r52", arguments.max_length, FP32)
    sample = Sample(arguments.steps, setting.data.batch_size)
    steps = {name: partial(seconds_per_step, replace(setting, precision=name), sample) for name in (BF16, FP32)}
    measured = interleaved(steps, arguments.repeats)
    typical, least, most = ratio(measured[BF16], measured[FP32])
    size = setting.source.load().size
    row = {
        "threads": torch.get_num_threads(),
        "s per step, bf16": min(measured[BF16]),
        "s per step, fp32": min(measured[FP32]),
        "bf16 / fp32": typical,
        "spread": f"{least:.2f} to {most:.2f}",
        "one layer (precision=auto)": bf16_ratio(size),
    }
    report(f"bf16 against fp32: training steps of at most {arguments.max_length} tokens", [row], arguments.json)


if __name__ == "__main__":
    command_line(main)
