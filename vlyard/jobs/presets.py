"""Questions in the words that Qwen3-VL was trained on: a table, by what is asked for and in which language.

It knows no model and no job. Where Qwen publishes no words of its own for a question, ours stand in the same style.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from vlyard.errors import Complaint, InvalidInput

PresetName: TypeAlias = Literal[
    "describe",
    "ground",
    "refer",
    "point",
    "count",
    "ocr_lines",
    "document_html",
    "document_markdown",
    "key_information",
]
Language: TypeAlias = Literal["en", "zh"]
Filling: TypeAlias = Literal["classes", "keys", "description"]  # what the caller gives, a field of the specification
Returns: TypeAlias = Literal["text", "boxes", "points", "lines", "document", "count"]


@dataclass(frozen=True)
class Preset:
    """One question: its words by language, what they need, and what comes back."""

    words: Mapping[Language, str]  # `{}` where the filling goes
    returns: Returns
    new_tokens: int  # the longest answer that is worth waiting for
    model_s_own: tuple[Language, ...] = ()  # where the words are Qwen's, not ours
    fills: Filling | None = None
    unfilled: Mapping[Language, str] | None = None  # the words where nothing is given; None: something must be


# Qwen's own words: Qwen3-VL's cookbooks `2d_grounding` and `ocr`, its document parsing formats, its model cards, and
# for `refer` the prompt with which it was measured on RefCOCO (QwenLM/Qwen3-VL issue 1721).
PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "describe": Preset({"en": "Describe this image.", "zh": "描述这张图片。"}, "text", 512, model_s_own=("en",)),
        "ground": Preset(
            {
                "en": 'locate every instance that belongs to the following categories: "{}". '
                "Report bbox coordinates in JSON format.",
                "zh": "定位图中属于以下类别的所有实例：“{}”。以JSON格式输出bbox_2d坐标和label。",
            },
            "boxes",
            4096,
            model_s_own=("en",),
            fills="classes",
            unfilled={
                "en": "locate every object in the image. Report bbox coordinates and labels in JSON format.",
                "zh": "定位图中的所有物体，以JSON格式输出bbox_2d坐标和label。",
            },
        ),
        "refer": Preset(
            {
                "en": 'Locate every object that matches the description "{}" in the image. '
                "Report bbox coordinates in JSON format.",
                "zh": "定位图中符合描述“{}”的所有物体，以JSON格式输出bbox_2d坐标和label。",
            },
            "boxes",
            512,
            model_s_own=("en",),
            fills="description",
        ),
        "point": Preset(
            {
                "en": 'locate every instance that belongs to the following categories with points: "{}". '
                'Report point coordinates in JSON format like this: {{"point_2d": [x, y], "label": "category"}}',
                "zh": "用点定位图中属于以下类别的所有实例：“{}”。"
                '以如下JSON格式输出点坐标：{{"point_2d": [x, y], "label": "类别"}}',
            },
            "points",
            2048,
            fills="classes",
            unfilled={
                "en": "locate every object in the image with points. "
                'Report point coordinates in JSON format like this: {{"point_2d": [x, y], "label": "object"}}',
                "zh": '用点定位图中的所有物体。以如下JSON格式输出点坐标：{{"point_2d": [x, y], "label": "物体"}}',
            },
        ),
        "count": Preset(
            {
                "en": 'How many instances of the following categories are in the image: "{}"? Answer with a number.',
                "zh": "图中属于以下类别的实例一共有多少个：“{}”？只回答一个数字。",
            },
            "count",
            64,
            fills="classes",
        ),
        "ocr_lines": Preset(
            {
                "en": "Spotting all the text in the image with line-level, and output in JSON format.",
                "zh": "按行识别并定位图中的所有文字，以JSON格式输出bbox_2d坐标和text_content。",
            },
            "lines",
            4096,
            model_s_own=("en",),
        ),
        "document_html": Preset({"en": "qwenvl html", "zh": "qwenvl html"}, "document", 8192, model_s_own=("en", "zh")),
        "document_markdown": Preset(
            {"en": "qwenvl markdown", "zh": "qwenvl markdown"}, "document", 8192, model_s_own=("en", "zh")
        ),
        "key_information": Preset(
            {
                "en": "Extract the key-value information in the format:{}",
                "zh": "提取图中的关键信息，按照以下JSON格式输出：{}",
            },
            "text",
            1024,
            model_s_own=("en",),
            fills="keys",
        ),
    }
)

NEW_TOKENS: Mapping[PresetName, int] = MappingProxyType({name: each.new_tokens for name, each in PRESETS.items()})


def question(
    preset: PresetName,
    language: Language,
    classes: Sequence[str] = (),
    keys: Sequence[str] = (),
    description: str | None = None,
) -> str:
    """The preset's question. Raises `InvalidInput` where what it needs is missing or blank, or what it has no place
    for is given; the complaint's place is the field, such as `/spec/classes`."""
    row = PRESETS[preset]
    given: dict[Filling, Sequence[str]] = {
        "classes": classes,
        "keys": keys,
        "description": () if description is None else (description,),
    }
    complaints = [*_superfluous(preset, row, given), *_blank(given)]
    if row.fills and row.unfilled is None and not given[row.fills]:
        complaints.append(Complaint(f"/spec/{row.fills}", f"the preset {preset} needs it", f"give {row.fills}"))
    if complaints:
        raise InvalidInput(f"The preset {preset} cannot be worded", complaints)
    words = row.words
    if row.unfilled is not None and row.fills and not given[row.fills]:
        words = row.unfilled
    return words[language].format(_FILLINGS[row.fills](given[row.fills])) if row.fills else words[language]


def _superfluous(preset: PresetName, row: Preset, given: Mapping[Filling, Sequence[str]]) -> list[Complaint]:
    return [
        Complaint(f"/spec/{name}", f"the preset {preset} has no place for it", "leave it out")
        for name, texts in given.items()
        if texts and name != row.fills
    ]


def _blank(given: Mapping[Filling, Sequence[str]]) -> list[Complaint]:
    return [
        Complaint(f"/spec/{name}", "it is blank, or a part of it is", "write what is meant")
        for name, texts in given.items()
        if not all(text.strip() for text in texts)
    ]


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(text.strip() for text in texts))


def _template(texts: Sequence[str]) -> str:
    return json.dumps({text.strip(): "" for text in texts}, ensure_ascii=False)


_FILLINGS = {"classes": _listed, "keys": _template, "description": _listed}
