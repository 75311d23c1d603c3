"""Which file a word of the command line names, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.catalog import load_catalog
from rbees.workerd.adapters import read_adapters
from rbees.workerd.model_paths import model_path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBEES_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(word: str, flag: str = "--model") -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        model_path(Path(word), flag)
    return caught.value


def test_a_short_name_is_the_catalogues_file() -> None:
    for name, entry in load_catalog().items():
        if entry.path is not None:
            assert model_path(Path(name), "--model") == (entry.path, name)


def test_a_name_of_a_hub_says_how_to_get_it() -> None:
    name = next(name for name, entry in load_catalog().items() if entry.hub is not None)
    error = refusal(name)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert f"rbees-pool models download {name}" in error.message
    assert f"the path that `rbees-pool models info {name}` shows" in error.message, (
        "by its name a worker does not find it then either"
    )
    assert f"did you mean {name}?" in refusal("tinylama").message.replace("tinyllama", name)


def test_a_file_goes_before_a_name_and_a_reference_is_a_path(folder: Path) -> None:
    (name, *_) = load_catalog()
    own = folder / name
    own.write_bytes(b"GGUF")
    for word in (name, str(own), f"file:{own}"):
        assert model_path(Path(word), "--model") == (own, f"file:{own}")


def test_what_is_not_there_is_told_with_flag_and_file(folder: Path) -> None:
    (name, *_) = load_catalog()
    assert f"did you mean {name}?" in refusal(f"{name}x").message
    for word in (f"{folder}/nowhere.gguf", f"file:{folder}/nowhere.gguf", "sub/nowhere.gguf"):
        error = refusal(word, "--draft-model")
        assert error.code is ErrorCode.MODEL_NOT_FOUND
        assert "nowhere.gguf of `--draft-model` cannot be read: No such file" in error.message
        assert str(folder) not in error.message


def test_the_scale_of_an_adapter_that_is_no_number(folder: Path) -> None:
    (folder / "bee.gguf").write_bytes(b"x")
    (folder / "a=b.gguf").write_bytes(b"x")
    assert [adapter.scale for adapter in read_adapters(("bee.gguf=0.5", "a=b.gguf"))] == [0.5, 1.0]
    for word, said in (("bee.gguf=abc", "`abc` is no number"), ("wasp.gguf", "The file wasp.gguf of `--lora`")):
        with pytest.raises(RbeesError) as caught:
            read_adapters((word,))
        assert said in caught.value.message
