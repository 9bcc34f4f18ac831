"""Language-guided query selection: the image tokens most like any word become the decoder's queries.

Source: Liu et al. 2023 (Grounding DINO), section 3.2; Zhang et al. 2022 (DINO), section 3.4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.grounding_dino.features import Encoded, GroundingModel


@dataclass(frozen=True, eq=False)
class Selection:
    """What language-guided query selection saw and chose.

    Attributes:
        logits: (B, S, T), similarity of each image token with each text token; -inf on padding.
        features: (B, S, d), the candidate queries' content.
        chosen: (B, Q) int64, the image tokens that became queries, best first.
        boxes_logit: (B, Q, 4), the chosen's boxes by the encoder before the sigmoid, cx cy w h; inf at the rim.
    """

    logits: Tensor
    features: Tensor
    chosen: Tensor
    boxes_logit: Tensor

    def chosen_logits(self) -> Tensor:
        """(B, Q, T), the chosen tokens' similarities, with gradient."""
        return take_tokens(self.logits, self.chosen)

    def chosen_features(self) -> Tensor:
        """(B, Q, d), the chosen tokens' content, with gradient."""
        return take_tokens(self.features, self.chosen)


def take_tokens(values: Tensor, chosen: Tensor) -> Tensor:
    """Return (B, Q, d) of (B, S, d): the tokens whose places are (B, Q) int64."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True, eq=False)
class QueryStart:
    """What the decoder starts from.

    Attributes:
        content: (B, Q, d).
        references: (B, Q, 4), the anchors cx cy w h in [0, 1], without gradient where they come from the encoder.
        selection: What query selection saw; None where the anchors are learned.
    """

    content: Tensor
    references: Tensor
    selection: Selection | None


def select_queries(model: GroundingModel, encoded: Encoded) -> Selection:
    """Choose the image tokens most like any text token: language-guided query selection.

    The boxes and similarities keep their gradient, so that the encoder's heads can be trained.

    Source: Liu et al. 2023, section 3.2 and algorithm 1.
    """
    core = model.model
    no_padding = torch.zeros(encoded.vision.shape[:2], dtype=torch.bool, device=encoded.vision.device)
    features, proposals = core.generate_encoder_output_proposals(encoded.vision, no_padding, encoded.image.level_hw)
    logits = core.encoder_output_class_embed(features, encoded.text, encoded.token_mask)
    logits = logits[..., : encoded.text.shape[1]]
    count = min(model.config.num_queries, logits.shape[1])
    chosen = logits.detach().max(-1).values.topk(count, dim=1).indices
    boxes_logit = core.encoder_output_bbox_embed(take_tokens(features, chosen)) + take_tokens(proposals, chosen)
    return Selection(logits, features, chosen, boxes_logit)


def query_content(model: GroundingModel, selection: Selection) -> Tensor:
    """Return the queries' content (B, Q, d): learned and static where the model has it (DINO's mixed selection).

    Source: Zhang et al. 2022 (DINO), section 3.4.
    """
    if model.config.embedding_init_target:
        static: Tensor = model.model.query_position_embeddings.weight[: selection.chosen.shape[1]]
        return static.expand(len(selection.chosen), -1, -1)
    return selection.chosen_features().detach()


def start_queries(model: GroundingModel, encoded: Encoded) -> QueryStart:
    """Choose content and anchors of the queries, by `config.two_stage` and `config.embedding_init_target`.

    Two-stage models take their anchors from the image: mixed selection with learned content (DINO, section 3.4), pure
    selection with the image's own. Others have learned content and learned anchors, `reference_points` of (Q, 4)
    before the sigmoid.

    Source: Zhang et al. 2022 (DINO), section 3.4; Liu et al. 2022 (DAB-DETR), section 4 for learned anchors.
    """
    if model.config.two_stage:
        selection = select_queries(model, encoded)
        references = selection.boxes_logit.sigmoid().detach()
        return QueryStart(query_content(model, selection), references, selection)
    count = len(encoded.vision)
    content = model.model.query_position_embeddings.weight.expand(count, -1, -1)
    references = model.model.reference_points.weight.sigmoid().expand(count, -1, -1)
    return QueryStart(content, references, None)
