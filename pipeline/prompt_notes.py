"""What a user should know of their prompts before a run: those that the detector's tokenizer cannot read."""

import logging

from models.grounding_dino.prompt_check import describe_unread_prompts
from models.ontology import Ontology
from models.zoo import resolve

_LOG = logging.getLogger(__name__)


def note_unread_prompts(detector: str, ontology: Ontology) -> None:
    """Log a warning for each prompt that the detector's tokenizer does not know, wholly or in part.

    Args:
        detector: Zoo name, hub id or local folder.
        ontology: Its classes' and its negative prompts are looked at.

    Raises:
        ValueError: No detector has the name.
        FileNotFoundError: Its files are not here and cannot be fetched.
    """
    for sentence in describe_unread_prompts(
        resolve(detector, "detector"), [prompt.text for prompt in ontology.prompts]
    ):
        _LOG.warning(sentence)
