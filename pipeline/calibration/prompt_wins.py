"""Which prompts of a class find its objects, and which never do and can go."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models.ontology import Ontology


@dataclass(frozen=True)
class PromptCount:
    """One prompt.

    Attributes:
        class_name: Its class.
        prompt: Its text.
        wins: Labels that it found: of all prompts of their class it had the highest score.
        judged: How many of them were judged.
        right: How many of those are right.
    """

    class_name: str
    prompt: str
    wins: int
    judged: int
    right: int


class PromptWins:
    """Counts what each prompt found.

    Args:
        ontology: Classes and prompts.

    Attributes:
        images: How many images were counted.
    """

    def __init__(self, ontology: Ontology) -> None:
        self._ontology = ontology
        self._wins: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self.images = 0

    def add(self, prompts: Sequence[str], rights: Sequence[bool | None] | None = None) -> None:
        """Count an image.

        Args:
            prompts: One a label; may be empty.
            rights: One a label, whether it is right; None where that is not known.
        """
        self.images += 1
        self._wins.update(prompts)
        for prompt, right in zip(prompts, rights if rights is not None else [None] * len(prompts), strict=True):
            if right is not None:
                self._judged[prompt] += 1
                self._right[prompt] += right

    def counts(self) -> tuple[PromptCount, ...]:
        """Return the prompts of the classes that have several, in the order of the ontology."""
        return tuple(
            PromptCount(spec.name, text, self._wins[text], self._judged[text], self._right[text])
            for spec in self._ontology.classes
            if len(spec.prompts) > 1
            for text in spec.prompts
        )


def idle_prompts(counts: Sequence[PromptCount]) -> dict[str, list[str]]:
    """Return the prompts that never won, by class, of those classes of which another prompt did."""
    won = {one.class_name for one in counts if one.wins}
    idle: dict[str, list[str]] = {}
    for one in counts:
        if not one.wins and one.class_name in won:
            idle.setdefault(one.class_name, []).append(one.prompt)
    return idle


def describe_prompts(counts: Sequence[PromptCount], images: int) -> list[str]:
    """Return a line a class with several prompts, and one on those that can go; nothing without such classes."""
    lines = []
    for name in dict.fromkeys(one.class_name for one in counts):
        mine = sorted((one for one in counts if one.class_name == name), key=lambda one: -one.wins)
        parts = [
            f"{one.prompt} {one.wins}" + (f" ({one.right} of {one.judged} right)" if one.judged else "") for one in mine
        ]
        lines.append(f"prompts of {name}: {', '.join(parts)}")
    for name, prompts in idle_prompts(counts).items():
        lines.append(f"never won on {images} images, so {name} may do without: {', '.join(prompts)}")
    return lines
