"""What SECURITY.md says of files that are not trusted."""

import ast
from pathlib import Path

import pytest
from PIL import Image

from pipeline.images import FORMATS, UnreadableImageError, prepare_decoding, read_image

ROOT = Path(__file__).parents[1]
STARTS_PROGRAMS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n",
    "WMF": b"\xd7\xcd\xc6\x9a\x00\x00\x00\x00\x00\x00\x0a\x00\x0a\x00\x48\x00" + bytes(64),
}


@pytest.mark.parametrize("kind", STARTS_PROGRAMS)
@pytest.mark.parametrize("ending", ["jpg", "own"])
def test_formats_that_start_programs_are_refused(
    tmp_path: Path, kind: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_decoding()
    path = tmp_path / f"a.{kind.lower() if ending == 'own' else ending}"
    path.write_bytes(STARTS_PROGRAMS[kind])
    monkeypatch.setattr("subprocess.Popen", None)  # who would start one fails otherwise
    with pytest.raises(UnreadableImageError, match="not an image in a format that is read"):
        read_image(path)
    assert kind not in FORMATS


def test_pillow_by_itself_would_take_eps(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", "EPS")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(UnreadableImageError, match="not an image in a format that is read"):
        read_image(tmp_path / "a.jpg")


def _calls() -> list[tuple[str, ast.Call]]:
    found = []
    for package in ("jobs", "models", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_no_loader_runs_code() -> None:
    loads = 0
    for place, call in _calls():
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        name = ast.unparse(call.func)
        assert options.get("trust_remote_code", "False") == "False", place
        assert options.get("allow_pickle", "False") == "False", place
        assert name not in ("pickle.load", "pickle.loads", "yaml.load", "eval", "exec", "os.system"), place
        assert not (name.startswith("subprocess.") and "shell" in options), place
        if name == "torch.load":
            loads += 1
            assert options.get("weights_only") == "True", place
    assert loads > 0
