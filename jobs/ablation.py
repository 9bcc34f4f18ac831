"""`python -m jobs.ablation`: train the arms of the ablation and print the table that docs/ablation.md shows.

    python -m jobs.ablation --backbone runs/tiny/shapes/backbone.pt --output runs/ablation --steps 600

Each arm and seed leaves a line in `results.csv` and is skipped when it is there.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

_FIELDS = ("arm", "seed", "steps", "AP50", "AP")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, required=True, help="a pretrained backbone, from `make tiny`")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.csv and the arms")
    parser.add_argument("--steps", type=int, default=1500, help="steps of 8 images an arm (default: 1500)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each arm (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(arguments)
    _train(options)
    print(table(read_results(options.output / "results.csv"), options.steps))
    return 0


def _train(options: argparse.Namespace) -> None:
    from models.devices import use_threads
    from models.training.ablation import arms, arms_without, build_arm, train_arm
    from models.training.checkpoint import load_checkpoint
    from models.training.tiny import tiny_processor, tiny_words

    use_threads(options.threads)
    backbone = load_checkpoint(options.backbone)
    options.output.mkdir(parents=True, exist_ok=True)
    processor = tiny_processor(tiny_words(), options.output / "processor")
    for seed in range(options.seeds):
        for number, arm in enumerate((*arms(), *arms_without())):
            done = read_results(options.output / "results.csv")
            if any(
                (row["arm"], row["seed"], row["steps"]) == (arm.name, str(seed), str(options.steps)) for row in done
            ):
                continue
            trainer = build_arm(arm, backbone, seed)
            folder = options.output / f"arm_{number}_seed_{seed}_steps_{options.steps}"
            figures = train_arm(arm, trainer, processor, folder, options.steps, seed)
            row = {"arm": arm.name, "seed": seed, "steps": options.steps}
            _append(options.output / "results.csv", row | {name: f"{value:.4f}" for name, value in figures.items()})
            print(f"{arm.name}, seed {seed}: AP50 {figures['AP50']:.3f}, AP {figures['AP']:.3f}", file=sys.stderr)


def read_results(file: Path) -> list[dict[str, str]]:
    """Return the lines of a results file; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _append(file: Path, row: dict[str, object]) -> None:
    fresh = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, _FIELDS)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def table(results: Sequence[dict[str, str]], steps: int) -> str:
    """Return the arms of one number of steps as a Markdown table: the mean over seeds, and the seeds themselves."""
    lines = ["| arm | AP50 | AP | AP of each seed |", "| --- | --- | --- | --- |"]
    chosen = [row for row in results if row["steps"] == str(steps)]
    for arm in dict.fromkeys(row["arm"] for row in chosen):
        rows = [row for row in chosen if row["arm"] == arm]
        ap50, ap = (mean(float(row[name]) for row in rows) for name in ("AP50", "AP"))
        each = ", ".join(f"{float(row['AP']):.3f}" for row in rows)
        lines.append(f"| {arm} | {ap50:.3f} | {ap:.3f} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
