"""Wrong command lines of training: one plain line each, and status 2."""

from pathlib import Path

import pytest

from tests.factories import write_toy_bundle
from training.__main__ import main

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "unet_scratch.toml"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with files of the wrong kinds."""
    monkeypatch.chdir(tmp_path)
    write_toy_bundle(tmp_path / "bundle")
    for folder in ("empty", "folder.csv", "listed"):
        Path(folder).mkdir()
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("nothing.csv").touch()
    Path("bytes.csv").write_bytes(b"\xff\xfe\0")
    Path("nul.csv").write_bytes(b"img_id,mask_rle\na\0,1 2\n")
    Path("rle.csv").write_text("img_id,mask_rle\na,1 2\n")
    Path("gone.csv").write_text("img_id,img_path,mask_rle\na,nowhere.png,1 2\n")
    Path("bad.toml").write_text("no toml [\n")
    Path("odd.toml").write_text("member = 3\n")
    Path("text.ckpt").write_text("x")
    Path("listed/SOURCES.csv").write_text("tile,labels\na,weak\n")
    Path("listed/tiles.csv").write_text("img_id,img_path,mask_rle\na,a.png,1 2\n")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train nowhere.toml", "nowhere.toml: No such file or directory"),
        ("train empty", "empty: Is a directory"),
        ("train bad.toml", "bad.toml is not TOML: "),
        ("train bytes.csv", "bytes.csv is not TOML: "),
        ("train odd.toml", "odd.toml: member must be text, got 3"),
        ("train CONFIG --set trainer.epochs=x", "trainer.epochs must be a whole number, got 'x'"),
        ("train CONFIG --set trainer.epoks=3", "trainer.epoks is unknown"),
        ("train CONFIG --set trainer.epochs", "override 'trainer.epochs' has no '='"),
        ("train CONFIG --set data.root=nowhere", "nowhere/train holds no tiles"),
        ("evaluate bundle nowhere", "nowhere holds no tiles"),
        ("evaluate bundle empty", "empty holds no tiles"),
        ("evaluate bundle folder.csv", "folder.csv holds no tiles"),
        ("evaluate bundle other.csv", "other.csv has columns ['a', 'b']; expected ["),
        ("evaluate bundle nothing.csv", "nothing.csv has columns []; expected ["),
        ("evaluate bundle bytes.csv", "bytes.csv is no CSV file in UTF-8"),
        ("evaluate bundle listed/tiles.csv", "SOURCES.csv has columns ['tile', 'labels']"),
        ("evaluate bundle gone.csv --quiet", "nowhere.png: No such file or directory"),
        ("evaluate empty gone.csv", "empty/manifest.json can't be read"),
        ("evaluate bundle gone.csv --at-gsd nan", "at_gsd must be more than 0 metres per pixel"),
        ("evaluate bundle gone.csv --seams -4", "seams must be at least 0, got -4"),
        ("export text.ckpt --out b", "text.ckpt can't be loaded as a checkpoint: it is damaged"),
        ("export text.ckpt --out b --gsd 0 1", "gsd must be more than 0 metres per pixel, got 0"),
        ("average text.ckpt text.ckpt --out a", "text.ckpt can't be loaded as a checkpoint"),
        ("fit nowhere empty --out b", "nowhere/manifest.json can't be read"),
        ("submit bundle empty --out s.csv", "empty: Is a directory"),
        ("score nowhere.csv nowhere.csv", "nowhere.csv: No such file or directory"),
        ("score nul.csv rle.csv --size 0", "size must be at least 1, got 0"),
        ("compare bad.toml --out c", "bad.toml is not TOML: "),
        ("compare odd.toml --out c", "odd.toml: "),
        ("scenes rle.csv --count 1", "rle.csv/images: Not a directory"),
        ("scenes s --count -3", "count must be at least 1, got -3"),
        ("scenes s --size 0", "size must be at least 1, got 0"),
        ("scenes s --seed -1", "seed must be at least 0, got -1"),
    ],
)
def test_it_ends_in_one_line(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.replace("CONFIG", str(CONFIG)).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
