"""A training can be repeated with LLaMA-Factory, whatever form its data had."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.language.llama_factory import problems
from tests.qwen.training_sets import converted, dataset, row, spec
from vlyard.demo.shapes import draw_dataset
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import DEMO_FOLDER, LoadedModel
from workers.qwen.training.llama_factory import save_recipe
from workers.qwen.training.plan import Plan
from workers.qwen.training.preparing import prepare

Recipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_dataset(folder, count=8, seed=9)
    return folder


@pytest.fixture
def recipe(demo: LoadedModel, tmp_path: Path) -> Recipe:
    """Write the recipe beside the data that it is for; its settings, once LLaMA-Factory would take it."""

    def recipe(data: Path, root: Path | None = None, known_as: str | None = None, **fields: Any) -> dict[str, Any]:
        asked = spec(policy="quarantine", **fields)
        assert isinstance(asked, TrainingSpec)
        plan = Plan(spec=asked, base=DEMO_FOLDER, known_as=known_as, dataset=data, output=tmp_path)
        save_recipe(plan, prepare(asked, data, demo.processor), demo.processor, steps=10)
        for file in (tmp_path / "recipe").iterdir():
            shutil.copy(file, root or data)
        assert problems(root or data) == []
        settings: dict[str, Any] = yaml.safe_load(((root or data) / "train.yaml").read_text(encoding="utf-8"))
        return settings

    return recipe


def samples_of(folder: Path, name: str) -> list[dict[str, Any]]:
    info = orjson.loads((folder / "dataset_info.json").read_bytes())
    samples: list[dict[str, Any]] = orjson.loads((folder / info[name]["file_name"]).read_bytes())
    return samples


@pytest.mark.parametrize("form", ["sharegpt", "sharegpt-from-value", "qwen", "swift", "trl", "tutorial"])
def test_every_form_of_a_conversion_has_a_recipe_that_names_what_was_learned(
    recipe: Recipe, shapes: Path, tmp_path: Path, form: str
) -> None:
    data = converted(shapes, tmp_path / "data", to=form)
    settings = recipe(data)
    learned, held_out = (samples_of(data, settings[name]) for name in ("dataset", "eval_dataset"))
    assert len(learned) > len(held_out) > 0
    turns = next(value for value in learned[0].values() if isinstance(value, list) and isinstance(value[0], dict))
    assert len(turns) == 2
    assert "bbox" in str(turns[1])


def test_a_folder_in_a_folder_has_one_with_what_could_be_learned_and_says_whose_the_base_is(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "packed").mkdir()
    root = dataset(tmp_path / "packed" / "mine", [row(), row(images=["none.png"]), row(answer="Another.")])
    settings = recipe(tmp_path / "packed", root, known_as="Qwen/Qwen3-VL-4B-Instruct", system="Be brief.")
    assert [each["messages"][1]["content"] for each in samples_of(root, settings["dataset"])] == [
        "A thing.",
        "Another.",
    ]
    assert {each["system"] for each in samples_of(root, settings["dataset"])} == {"Be brief."}
    assert "eval_dataset" not in settings
    assert (settings["model_name_or_path"], settings["template"]) == ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl_nothink")


def test_a_base_that_thinks_before_it_answers_has_the_template_of_those(
    recipe: Recipe, demo: LoadedModel, tmp_path: Path
) -> None:
    thinking = demo.processor.chat_template.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>\\n")
    assert thinking != demo.processor.chat_template
    settings = recipe(dataset(tmp_path / "mine", [row()]), chat_template=thinking)
    assert settings["template"] == "qwen3_vl"
