"""Questions in the model's own words."""

import subprocess
import sys
from typing import Any, get_args

import pytest

from vlyard.errors import InvalidInput
from vlyard.jobs.presets import NEW_TOKENS, PRESETS, Language, PresetName, question

FILLED = {
    "refer": {"description": "the cat on the left"},
    "count": {"classes": ["cat"]},
    "key_information": {"keys": ["total"]},
}


# What Qwen publishes for the model, filled as its own examples fill it; presets.py says where each is from.
PUBLISHED: dict[tuple[PresetName, Language], tuple[dict[str, Any], str]] = {
    ("describe", "en"): ({}, "Describe this image."),
    ("ground", "en"): (
        {"classes": ["plate/dish", "cup"]},
        'locate every instance that belongs to the following categories: "plate/dish, cup". '
        "Report bbox coordinates in JSON format.",
    ),
    ("refer", "en"): (
        {"description": "the left cat"},
        'Locate every object that matches the description "the left cat" in the image. '
        "Report bbox coordinates in JSON format.",
    ),
    ("ocr_lines", "en"): ({}, "Spotting all the text in the image with line-level, and output in JSON format."),
    ("document_html", "en"): ({}, "qwenvl html"),
    ("document_html", "zh"): ({}, "qwenvl html"),
    ("document_markdown", "en"): ({}, "qwenvl markdown"),
    ("document_markdown", "zh"): ({}, "qwenvl markdown"),
    ("key_information", "en"): (
        {"keys": ["company", "date", "address", "total"]},
        'Extract the key-value information in the format:{"company": "", "date": "", "address": "", "total": ""}',
    ),
}


def test_what_is_marked_as_the_model_s_own_is_what_qwen_publishes_word_for_word() -> None:
    marked = {(name, language) for name, row in PRESETS.items() for language in row.model_s_own}

    asked = {(name, language): question(name, language, **given) for (name, language), (given, _) in PUBLISHED.items()}

    assert marked == PUBLISHED.keys()
    assert asked == {key: words for key, (_, words) in PUBLISHED.items()}


@pytest.mark.parametrize("name", get_args(PresetName))
@pytest.mark.parametrize("language", get_args(Language))
def test_every_preset_asks_in_every_language_and_leaves_no_place_unfilled(name: PresetName, language: Language) -> None:
    asked = question(name, language, **FILLED.get(name, {}))  # type: ignore[arg-type]

    assert asked
    assert "{}" not in asked
    assert "{{" not in asked
    assert NEW_TOKENS[name] >= 64
    if language == "zh" and name not in ("document_html", "document_markdown"):  # Qwen's words for both languages
        assert any("\u4e00" <= letter <= "\u9fff" for letter in asked)


@pytest.mark.parametrize("name", ["ground", "point"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_classes_all_objects_are_asked_for(name: PresetName, language: Language) -> None:
    assert question(name, language) == question(name, language, [])
    assert "cat, dog" not in question(name, language)
    assert "cat, dog" in question(name, language, ["cat", "dog", "cat"])


def test_points_are_asked_for_in_the_shape_that_is_read() -> None:
    assert '{"point_2d": [x, y], "label"' in question("point", "en", ["cat"])
    assert '{"point_2d": [x, y], "label"' in question("point", "zh")


def test_keys_become_a_template_that_is_json() -> None:
    assert question("key_information", "en", keys=["total", 'the "date"', "金额"]).endswith(
        '{"total": "", "the \\"date\\"": "", "金额": ""}'
    )


def test_braces_of_the_caller_stay_as_they_are() -> None:
    assert '"{0} {x"' in question("refer", "en", description="{0} {x")


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("refer", {}, "/spec/description"),
        ("refer", {"description": " "}, "/spec/description"),
        ("refer", {"description": "a", "classes": ["cat"]}, "/spec/classes"),
        ("count", {}, "/spec/classes"),
        ("count", {"classes": ["cat", ""]}, "/spec/classes"),
        ("key_information", {}, "/spec/keys"),
        ("describe", {"classes": ["cat"]}, "/spec/classes"),
        ("ocr_lines", {"keys": ["total"]}, "/spec/keys"),
        ("ground", {"description": "a"}, "/spec/description"),
    ],
)
def test_what_is_missing_blank_or_superfluous_is_named(name: PresetName, given: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        question(name, "en", **given)  # type: ignore[arg-type]

    assert [each.where for each in refused.value.complaints] == [field]
    assert refused.value.complaints[0].fix


def test_the_table_loads_nothing_heavy() -> None:
    program = "import sys, vlyard.jobs.presets; print([m for m in ('torch', 'PIL', 'pydantic') if m in sys.modules])"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "torch" not in said.stdout
    assert "PIL" not in said.stdout
