"""`try_prompts`: several ontologies on a sample of images, compared, and what came out as files."""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from models.ontology import Ontology
from pipeline.calibration.prompt_wins import PromptCount, PromptWins
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.images import prepare_decoding
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.sources import find_images
from pipeline.store.durable import write_file
from pipeline.trial.agreement import Agreement, compare_labels
from pipeline.trial.arms import Arm, run_arms
from pipeline.trial.judge import Judgement, judge_arms, known_refs, read_truth
from pipeline.trial.sheet import draw_trial, save_sheet

VALUES_FILE = "try.json"
SHEET_FILE = "sheet.jpg"
MOST_ROWS = 24
"""Images on the contact sheet."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What came out.

    Attributes:
        arms: One an ontology, in the order given.
        sample: How many images were labelled.
        of_images: Of how many they were drawn.
        agreements: For each pair of places in `arms`, smaller first.
        failed: Images that could not be labelled by all, with the reason.
        prompts: For each arm, its prompts of classes with several.
        judgement: By the truth; None without one.
    """

    arms: tuple[Arm, ...]
    sample: int
    of_images: int
    agreements: Mapping[tuple[int, int], Agreement]
    failed: Mapping[str, str]
    prompts: tuple[tuple[PromptCount, ...], ...]
    judgement: Judgement | None

    def counts(self, place: int) -> Counter[str]:
        """Return how many labels an arm has of each of its classes, in the ontology's order."""
        arm = self.arms[place]
        found = Counter(name for image in arm.images().values() for name in image.class_names)
        return Counter({spec.name: found[spec.name] for spec in arm.ontology.classes})

    def disputed(self) -> Counter[str]:
        """Return how many labels of each image only one side of a pair of arms has, by image id."""
        found: Counter[str] = Counter()
        for agreement in self.agreements.values():
            found.update(agreement.disputed)
        return found


def try_prompts(
    images: str | Path,
    classes: Sequence[str],
    *,
    sample: int = 50,
    seed: int = 0,
    truth: str | Path | None = None,
    config: AnnotateConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trial:
    """Label a sample of images with several ontologies and compare what they find.

    Args:
        images: As `annotate` takes them.
        classes: At least two, each a file or names, as `Ontology.parse` takes them.
        sample: How many images, at least 1; all where there are fewer.
        seed: Another seed, other images.
        truth: A COCO file or export, or a reviewed run; only images that it has are drawn.
        config: Models and options; None means the defaults.
        progress: Called with the number of images that are done, and of all.

    Raises:
        UserError: Something that was asked for is wrong or missing, or no image could be labelled.
    """
    if len(classes) < 2:
        raise UserError("--classes must be given twice or more: the ontologies to compare")
    if len(set(classes)) < len(classes):
        raise UserError("--classes: one of them is given twice")
    if sample < 1:
        raise UserError(f"--sample must be at least 1, not {sample}")
    config = config or AnnotateConfig()
    try:
        ontologies = [Ontology.parse(text) for text in classes]
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    found = find_images(images)
    truth_set = read_truth(Path(truth)) if truth is not None else None
    candidates = list(found.refs) if truth_set is None else known_refs(truth_set, found.refs)
    chosen = random.Random(seed).sample(candidates, min(sample, len(candidates)))
    refs = sorted(chosen, key=lambda ref: ref.path)
    arms = tuple(run_arms(config, classes, ontologies, refs, found.root, progress))
    failed = {row.path: row.reason for arm in arms for row in arm.rows if isinstance(row, FailedImage)}
    if len(failed) == len(refs):
        raise UserError(f"none of the {len(refs)} images could be labelled: {next(iter(failed.values()))}")
    return Trial(
        arms,
        len(refs),
        len(candidates),
        {pair: compare_labels(*(arms[place].images() for place in pair)) for pair in combinations(range(len(arms)), 2)},
        failed,
        tuple(_count_prompts(arm) for arm in arms),
        judge_arms(truth_set, arms) if truth_set is not None else None,
    )


def _count_prompts(arm: Arm) -> tuple[PromptCount, ...]:
    wins = PromptWins(arm.ontology)
    for image in arm.images().values():
        wins.add(image.prompts)
    return wins.counts()


def write_trial(trial: Trial, output: Path) -> None:
    """Write try.json and the contact sheet; those of an earlier trial there are replaced.

    Raises:
        UserError: An image cannot be read any more, or the folder cannot be written.
    """
    prepare_decoding()
    sheet = draw_trial(trial.arms, _most_disputed(trial))
    try:
        output.mkdir(parents=True, exist_ok=True)
        save_sheet(sheet, output / SHEET_FILE)
        text = json.dumps(trial_values(trial), indent=2, ensure_ascii=False)
        write_file(output / VALUES_FILE, (text + "\n").encode())
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); name another --output") from error


def _most_disputed(trial: Trial) -> list[str]:
    """Return the images of the sheet: those on which the ontologies agree least, then by path."""
    disputed = trial.disputed()
    whole = [arm.images() for arm in trial.arms]
    everywhere: list[AnnotatedImage] = [
        image for key, image in whole[0].items() if all(key in images for images in whole)
    ]
    ranked = sorted(everywhere, key=lambda image: (-disputed[image.image_id], image.path))
    return [image.image_id for image in ranked[:MOST_ROWS]]


def trial_values(trial: Trial) -> dict[str, Any]:
    """Return everything as JSON has it; what is not known is null."""
    names = [arm.name for arm in trial.arms]
    return {
        "images": [row.path for row in trial.arms[0].rows],
        "drawn_from": trial.of_images,
        "failed": dict(trial.failed),
        "ontologies": [
            {
                "name": arm.name,
                "classes": arm.ontology.to_dict(),
                "labels": sum(trial.counts(place).values()),
                "labels_by_class": dict(trial.counts(place)),
                "seconds": arm.seconds,
                "prompts": [asdict(one) for one in trial.prompts[place]],
            }
            for place, arm in enumerate(trial.arms)
        ],
        "agreement": [
            {
                "first": names[first],
                "second": names[second],
                "share": _known(agreement.share),
                "renamed": agreement.renamed,
                "by_class": [asdict(one) for one in agreement.by_class],
                "disputed_labels_by_image": dict(agreement.disputed),
            }
            for (first, second), agreement in trial.agreements.items()
        ],
        "truth": _judgement_values(trial.judgement, names) if trial.judgement is not None else None,
    }


def _judgement_values(judgement: Judgement, names: Sequence[str]) -> dict[str, Any]:
    return {
        "classes": list(judgement.classes),
        "objects": judgement.objects,
        "AP": {
            name: {"value": one.value, "low": _known(one.low), "high": _known(one.high)}
            for name, one in zip(names, judgement.precisions, strict=True)
        },
        "best": names[judgement.best],
        "lead_of_best": {
            name: {
                "value": lead.change.value,
                "low": _known(lead.change.low),
                "high": _known(lead.change.high),
                "verdict": lead.verdict,
            }
            for name, lead in zip(names, judgement.leads, strict=True)
            if lead is not None
        },
    }


def _known(value: float) -> float | None:
    return None if value != value else value
