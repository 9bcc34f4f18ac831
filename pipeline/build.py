"""From a config to an annotator: the models are loaded here."""

from collections.abc import Sequence

from models.batch_sizes import Batches, find_batches
from models.boxes_only import BoxesOnly
from models.interfaces import Detector, Segmenter
from models.ontology import Ontology
from models.zoo import DetectorOptions, load_detector, load_detectors, load_segmenter
from pipeline.addresses import parse_schemes
from pipeline.annotator import Annotator
from pipeline.config import AnnotateConfig
from pipeline.fetching import FetchSettings
from pipeline.mask_cleanup import MaskCleanup


def build_annotator(config: AnnotateConfig, ontology: Ontology) -> Annotator:
    """Load the models of a config; a worker calls this in its own process.

    Raises:
        ValueError: A model, prompt or option does not fit.
        FileNotFoundError: Weights are not on this machine.
    """
    detector = load_detector(config.detector, ontology, **detector_options(config))
    return assemble(config, ontology, detector, load_segmenter_of(config))


def build_annotators(config: AnnotateConfig, ontologies: Sequence[Ontology]) -> list[Annotator]:
    """Load the models of a config once, and make an annotator of them for each ontology.

    Raises:
        ValueError: As `build_annotator`.
        FileNotFoundError: As `build_annotator`.
    """
    detectors = load_detectors(config.detector, ontologies, **detector_options(config))
    segmenter = load_segmenter_of(config)
    pairs = zip(ontologies, detectors, strict=True)
    return [assemble(config, ontology, detector, segmenter) for ontology, detector in pairs]


def detector_options(config: AnnotateConfig) -> DetectorOptions:
    """Return the options of a config that `load_detector` takes."""
    return {
        "box_threshold": config.box_threshold,
        "text_threshold": config.text_threshold,
        "size": config.size,
        "prompts_per_pass": config.prompts_per_pass,
        "prefilter": config.prefilter_classes,
        "device": config.device,
        "precision": config.computing_precision,
        "compile": config.compile,
    }


def load_segmenter_of(config: AnnotateConfig) -> Segmenter:
    """Load the segmenter of a config; without masks it is one that draws none.

    Raises:
        ValueError: It does not fit.
        FileNotFoundError: Its weights are not on this machine.
    """
    if config.mask == "none":
        return BoxesOnly()
    return load_segmenter(
        config.segmenter, device=config.device, multimask=config.multimask, precision=config.computing_precision
    )


def _batches_of(config: AnnotateConfig, ontology: Ontology) -> Batches:
    if config.batch_size != "auto":
        return Batches(config.images_at_once)
    return find_batches(config.detector, config.computing_precision, config.device, len(ontology.prompts))


def assemble(config: AnnotateConfig, ontology: Ontology, detector: Detector, segmenter: Segmenter) -> Annotator:
    """Make an annotator of models that are loaded."""
    return Annotator(
        detector,
        segmenter,
        ontology,
        config.filters,
        _batches_of(config, ontology),
        config.pixels,
        tiles=config.tiles,
        cleanup=MaskCleanup(config.mask_cleanup, config.largest_part),
        fetching=FetchSettings(parse_schemes(config.remote_schemes), config.allow_private_addresses),
    )
