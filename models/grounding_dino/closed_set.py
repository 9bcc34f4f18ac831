"""The closed-set detector: one learned vector a class in place of text, which makes Grounding DINO a DINO.

It takes no prompts but the classes that it was trained for. On disk it is a detector's folder with two things more:
`classes.safetensors` holds the vectors, `classes` in `groundlabel.json` their names in order.

Source: Zhang et al. 2022 (DINO), whose classifier has one learned weight vector a class.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GroundingDinoProcessor, PreTrainedTokenizerBase

from models.class_spec import normalise_prompt
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel, TextFeatures, TextLevel
from models.grounding_dino.spans import PromptText
from models.grounding_dino.text_cache import TextCache
from models.grounding_dino.texts import TextPass
from models.ontology import Ontology

CLASSES_FILE = "classes.safetensors"
_KEY = "class_tokens"


class ClassTokens(nn.Module):
    """Learned vectors that stand where the text encoder's output stands otherwise, one token a class.

    Args:
        names: C class names, each once.
        vectors: (C, d) float, their start.

    Raises:
        ValueError: The counts differ.
    """

    def __init__(self, names: Sequence[str], vectors: Tensor) -> None:
        super().__init__()
        if len(names) != len(vectors):
            raise ValueError(f"{len(names)} class names do not fit {len(vectors)} class vectors")
        self.names = tuple(normalise_prompt(name) for name in names)
        self.weight = nn.Parameter(vectors.detach().clone())

    def forward(self, class_ids: Tensor) -> TextFeatures:
        """Return the classes as text features; no class sees another.

        Args:
            class_ids: (B, T) int64, indices into the names.
        """
        count, length = class_ids.shape
        own = torch.eye(length, dtype=torch.bool, device=class_ids.device).expand(count, -1, -1)
        everything = torch.ones_like(class_ids, dtype=torch.bool)
        return TextFeatures(self.weight[class_ids], everything, own, torch.zeros_like(class_ids))


def write_class_tokens(folder: Path, tokens: ClassTokens) -> None:
    """Write the vectors into a detector's folder."""
    save_file({_KEY: tokens.weight.detach().cpu().contiguous()}, folder / CLASSES_FILE)


def read_class_tokens(folder: Path, names: Sequence[str]) -> ClassTokens:
    """Read the vectors of a detector's folder.

    Raises:
        FileNotFoundError: The folder names classes but has no vectors.
        ValueError: They are damaged or of another number of classes.
    """
    file = folder / CLASSES_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {CLASSES_FILE}, which a closed-set detector needs")
    content = load_file(file)
    if _KEY not in content:
        raise ValueError(f"{file} holds no {_KEY}; it is damaged")
    return ClassTokens(names, content[_KEY])


class ClosedSetDetector(GroundingDinoDetector):
    """Detects the classes that it was trained for; satisfies `models.interfaces.Detector`.

    Args:
        model: The model.
        processor: Its processor, for the resize.
        ontology: Any of the classes; each prompt must be the name of one.
        classes: The learned vectors.
        settings: Thresholds and size; all classes are one pass.
        device: Where to run.

    Raises:
        ValueError: A prompt is none of the classes.
    """

    def __init__(
        self,
        model: GroundingModel,
        processor: GroundingDinoProcessor,
        ontology: Ontology,
        classes: ClassTokens,
        settings: DetectorSettings = DetectorSettings(),
        device: torch.device | str = "cpu",
    ) -> None:
        self._classes = classes.to(device)
        super().__init__(model, processor, ontology, settings, device)

    @torch.inference_mode()
    def _encode_prompts(
        self, tokenizer: PreTrainedTokenizerBase, level: TextLevel, cache: TextCache | None
    ) -> list[TextPass]:
        if self._prefilter is not None:
            raise ValueError(
                "this detector is a closed set and asks for all its classes at once: it takes no prefilter"
            )
        places = {name: place for place, name in enumerate(self._classes.names)}
        for prompt in self._prompts:
            if prompt.text not in places:
                raise ValueError(
                    f"this detector is a closed set and cannot look for {prompt.text!r}; "
                    f"it knows {', '.join(self._classes.names)}"
                )
        ids = tuple(range(len(places)))
        spans = tuple((places[prompt.text], places[prompt.text] + 1) for prompt in self._prompts)
        features = self._classes(torch.tensor([ids], device=self.device))
        return [TextPass([prompt.index for prompt in self._prompts], PromptText(ids, spans), features)]
