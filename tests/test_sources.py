"""Finding images: which ones, under which paths and ids."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.paths import path_to_image_id, path_to_stored, stored_to_path
from pipeline.sources import ImageRef, find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(*arguments: object, **options: object) -> list[str]:
    return [ref.path for ref in find_images(*arguments, **options).refs]  # type: ignore[arg-type]


def test_folder_recursive_any_case(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/x.Png", "a/b/x.png", "notes.txt", ".hidden.png", ".git/y.png", "z.webp")
    images = find_images(tmp_path)
    assert [ref.path for ref in images.refs] == ["a/b/x.png", "a/x.Png", "b.JPG", "z.webp"]
    assert images.others == 1
    assert images.root == tmp_path


def test_moving_the_root_keeps_ids(tmp_path: Path) -> None:
    touch(tmp_path, "one/a/x.png")
    before = find_images(tmp_path / "one").refs
    (tmp_path / "one").rename(tmp_path / "two")
    assert find_images(tmp_path / "two").refs == before


def test_same_name_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/x.png")
    assert len({ref.image_id for ref in find_images(tmp_path).refs}) == 2


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, "images/real/x.png", "elsewhere/y.png")
    images = tmp_path / "images"
    (images / "loop").symlink_to(images)
    (images / "a_second_way").symlink_to(images / "real")
    (images / "real/up").symlink_to("..")
    (images / "out").symlink_to(tmp_path / "elsewhere")
    (images / "self.png").symlink_to("self.png")
    assert found(images) == ["out/y.png", "real/x.png", "self.png"]


def test_run_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "run/run.json", "run/shards/s.parquet", "run/preview.jpg", "other/run.json", "other/b.png")
    assert found(tmp_path) == ["a.png", "other/b.png"]


def test_odd_names_and_kinds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    touch(tmp_path, "🦊.png", "new\nline.png", "100%.png", "50%25.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.png")).touch()
    images = find_images(tmp_path)
    assert [ref.path for ref in images.refs] == sorted(
        ["100%.png", "50%2525.png", "latin%E9.png", "new\nline.png", "pipe.png", "🦊.png"]
    )
    assert all(os.path.lexists(ref.locate(str(images.root))) for ref in images.refs)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_stored_paths_are_valid_and_reversible(name: bytes) -> None:
    path = os.fsdecode(name)
    stored = path_to_stored(path)
    assert stored.encode("utf-8").decode("utf-8") == stored
    assert os.fsencode(stored_to_path(stored)) == name
    if b"%" not in name:
        try:
            assert stored == name.decode("utf-8")
        except UnicodeDecodeError:
            assert "%" in stored


@given(st.text(alphabet="%258AFé\udc80\udcff/", max_size=12), st.text(alphabet="%258AFé\udc80\udcff/", max_size=12))
def test_different_paths_are_stored_differently(first: str, second: str) -> None:
    assert (path_to_stored(first) == path_to_stored(second)) == (first == second)
    assert stored_to_path(path_to_stored(first)) == first


def test_image_id_is_documented() -> None:
    assert path_to_image_id("a/b.jpg") == "4a51636246e7c418"


def test_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "a/y.png")
    images = find_images(tmp_path / "a/x.png")
    assert [ref.path for ref in images.refs] == ["x.png"]
    assert images.root == tmp_path / "a"


def test_glob(tmp_path: Path) -> None:
    touch(tmp_path, "a/1/x.png", "a/2/x.png", "a/2/y.png", "b/x.png")
    images = find_images(f"{tmp_path}/a/*/x.png")
    assert [ref.path for ref in images.refs] == ["1/x.png", "2/x.png"]
    assert images.root == tmp_path / "a"
    assert found(f"{tmp_path}/**/x.png") == ["a/1/x.png", "a/2/x.png", "b/x.png"]


def test_a_name_with_wildcards_that_exists_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    assert found(tmp_path / "a[1].png") == ["a[1].png"]


def test_text_list(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa/x.png\r\n\n" + bytes(tmp_path) + b"/a/x.png\nmissing\xe9.dat\n")
    assert found(tmp_path / "list.txt") == ["a/x.png", "missing%E9.dat"]


def test_list_with_root(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a/x.png")
    (tmp_path / "list.txt").write_text("a/x.png\n")
    images = find_images(tmp_path / "list.txt", tmp_path / "photos")
    assert images.root == tmp_path / "photos"
    assert images.refs == find_images(tmp_path / "photos").refs


@pytest.mark.parametrize("entry", ["../x.png", "/etc/passwd", "a/../../x.png"])
def test_list_stays_in_its_root(tmp_path: Path, entry: str) -> None:
    (tmp_path / "list.txt").write_text(f"ok.png\n{entry}\n")
    with pytest.raises(UserError, match=r"entry 2: .* lies outside of .*--root"):
        find_images(tmp_path / "list.txt")


@pytest.mark.parametrize("column", ["path", "filepath", "file_name"])
def test_parquet_list(tmp_path: Path, column: str) -> None:
    pq.write_table(pa.table({"n": [1, 2], column: ["b.png", "a/x.png"]}), tmp_path / "list.parquet")
    assert found(tmp_path / "list.parquet") == ["a/x.png", "b.png"]


def test_paths_one_by_one(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/y.png")
    images = find_images([tmp_path / "a/x.png", str(tmp_path / "b/y.png")])
    assert images.root == tmp_path
    assert [ref.path for ref in images.refs] == ["a/x.png", "b/y.png"]


def bad_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"n": [1]}), folder / "list.parquet")
    return folder / "list.parquet"


def null_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"path": ["a.png", None]}), folder / "list.parquet")
    return folder / "list.parquet"


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "no images found; known endings: .*jpg"),
        (lambda folder: write(folder, "notes.doc", "").parent, r"no images found \(1 other files are there\)"),
        (lambda folder: folder / "nothing", "no such file or folder"),
        (lambda folder: f"{folder}/*.png", "no images found"),
        (lambda folder: f"{folder}/x/*.png", "does not exist"),
        (lambda folder: write(folder, "list.txt", "\n\n"), "no images found"),
        (
            lambda folder: write(folder, "list.txt", "ftp://x.org/a.png\n"),
            "entry 1: ftp://x.org/a.png: ftp:// is not among",
        ),
        (lambda folder: "ftp://host/a", "ftp:// is not among the kinds of addresses that are fetched"),
        (lambda folder: write(folder, "list.parquet", "text"), "cannot be read as Parquet"),
        (bad_parquet, "no column of paths; it needs one of path"),
        (null_parquet, "row 2: the column 'path' must hold a path in each row"),
        (lambda folder: [], "no images found"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_images(make(tmp_path))  # type: ignore[operator]


def test_reference_finds_its_file(tmp_path: Path) -> None:
    ref = ImageRef.from_path("a%25/\udce9.png")
    assert ref.locate("/root") == "/root/a%25/\udce9.png"
