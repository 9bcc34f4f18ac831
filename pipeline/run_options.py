"""The options that a run was made with."""

from pipeline.config import AnnotateConfig
from pipeline.store.output import settings_to_config
from pipeline.store.run import Run


def config_of(run: Run) -> AnnotateConfig:
    """Return the options that a run was made with.

    Raises:
        UserError: It was made with an option that this version does not know.
    """
    return settings_to_config(run.settings, AnnotateConfig())


def threshold_of(run: Run, config: AnnotateConfig, class_name: str) -> float:
    """Return the box threshold that a class of a run was labelled with."""
    own = next((spec.box_threshold for spec in run.ontology.classes if spec.name == class_name), None)
    return config.box_threshold if own is None else own
