import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import conv3d

from workers.qwen import selftest
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.selftest import SelfTest, self_test


def notes(tested: SelfTest) -> dict[str, str]:
    return {check.name: check.note for check in tested.checks}


def test_a_worker_that_is_well_says_what_it_looked_at() -> None:
    tested = self_test()
    said = notes(tested)

    assert tested.ok, tested
    assert list(said) == ["loading", "dtype", "attention", "convolution", "tokenizer", "orientation"]
    assert "apart from eager" in said["attention"]
    assert "times as long as the equal matrix product" in said["convolution"]
    assert tested.torch == torch.__version__
    assert len(tested.devices) == max(1, torch.cuda.device_count())
    assert tested.seconds >= sum(check.seconds for check in tested.checks) > 0


def test_what_it_found_can_be_stored_as_json() -> None:
    tested = self_test()

    stored = json.loads(json.dumps(tested.as_json()))

    assert stored == tested.as_json()
    assert stored["checks"][0]["name"] == "loading"


def test_a_model_that_cannot_be_loaded_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    tested = self_test(tmp_path / "nothing")

    assert not tested.ok
    assert "there is no such folder" in notes(tested)["loading"]
    assert [(check.name, check.ok) for check in tested.checks] == [("loading", False), ("orientation", True)]


def test_a_tokenizer_that_does_not_cut_numbers_into_digits_is_told(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "model"))
    for file in ("tokenizer.json", "tokenizer_config.json"):  # in the place of a token that no question needs
        content = json.loads((folder / file).read_text().replace('"</think>"', '"1024"'))
        (folder / file).write_text(json.dumps(content))

    tested = self_test(folder)

    assert [check.name for check in tested.checks if not check.ok] == ["tokenizer"]
    assert "1024 is cut into ['1024'], not into digits" in notes(tested)["tokenizer"]


def failed(tested: SelfTest) -> list[str]:
    assert tested.ok == all(check.ok for check in tested.checks)
    return [check.name for check in tested.checks if not check.ok]


def test_attention_that_comes_to_other_numbers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.nn.functional.scaled_dot_product_attention

    def disturbed(*tensors: Any, **how: Any) -> Any:
        return -right(*tensors, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", disturbed)

    tested = self_test()

    assert failed(tested) == ["attention"]
    assert "apart from eager" in notes(tested)["attention"]


def test_a_convolution_that_is_slow_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.perf_counter()
    torch.ones(128, 1536) @ torch.ones(1536, 1024)
    product = time.perf_counter() - began

    def slow(*tensors: Any, **how: Any) -> Any:
        if "stride" in how:
            time.sleep(50 * product)
        return conv3d(*tensors, **how)

    monkeypatch.setattr(selftest, "conv3d", slow)

    tested = self_test()

    assert failed(tested) == ["convolution"]
    assert "pictures will be slow: use another version of torch" in notes(tested)["convolution"]


def test_a_convolution_that_comes_to_other_numbers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(*tensors: Any, **how: Any) -> Any:
        return conv3d(*tensors, **how).flip(0)

    monkeypatch.setattr(selftest, "conv3d", disturbed)

    tested = self_test()

    assert failed(tested) == ["convolution"]
    assert "pictures will be slow" not in notes(tested)["convolution"]


def test_pictures_that_are_not_turned_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_stored(content: bytes, name: str) -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    monkeypatch.setattr(selftest, "open_picture", as_stored)

    tested = self_test()

    assert failed(tested) == ["orientation"]
    assert notes(tested)["orientation"] == "a picture is not turned as its EXIF orientation says"
