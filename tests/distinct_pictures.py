"""Pictures of which none is like another, for the tests of splits and near-duplicates."""

from functools import cache

import numpy as np
from PIL import Image

from models.training.scenes import SceneConfig, render_scene


@cache
def photo(seed: int) -> Image.Image:
    """Make a picture that is like no other: a scene on smooth random colours."""
    ground = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = ground.resize((128, 128), Image.Resampling.BICUBIC)
    scene = render_scene(seed, SceneConfig(size=128, max_objects=4))
    picture.paste(Image.fromarray(scene.image), mask=Image.fromarray(np.any([*scene.masks], axis=0)))
    return picture
