"""What is installed is ours and whole, and a package imports only what stands below it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jobs
import models
import pipeline

ROOT = Path(__file__).parents[1]


def test_the_top_level_names_are_ours() -> None:
    for package in (jobs, models, pipeline):
        assert Path(package.__file__).parent.parent == ROOT


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("models", ("torch", "ray", "fiftyone", "pyarrow")),
        ("pipeline", ("torch", "ray", "fiftyone", "pyarrow")),
        ("pipeline.export", ("torch", "ray", "fiftyone")),
        ("pipeline.preview", ("torch", "ray", "fiftyone")),
        ("pipeline.annotator", ("torch", "transformers", "scipy", "ray", "fiftyone")),
        ("models.zoo", ("torch", "transformers", "ray", "fiftyone")),
        ("models.ontology_file", ("torch", "ray", "fiftyone", "numpy")),
        ("jobs.cli", ("torch", "ray", "fiftyone", "pyarrow", "numpy")),
    ],
)
def test_importing_is_cheap(package: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {package}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_public_names_are_there() -> None:
    from models.ontology import Ontology
    from pipeline.run import annotate

    assert pipeline.annotate is annotate
    assert pipeline.Ontology is Ontology
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("jobs", "models", "pipeline"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    script = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=source, timeout=240)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("jobs", "models", "pipeline"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
        assert {name for name in files if "__pycache__" not in name} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"jobs", "models", "pipeline"}
