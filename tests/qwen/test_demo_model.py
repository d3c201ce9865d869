import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from trl.chat_template_utils import qwen3_vl_chat_template

from workers.qwen.demo.__main__ import make_checkpoint
from workers.qwen.demo.architecture import build
from workers.qwen.demo.measuring import measure
from workers.qwen.demo.tokenizer import PLAIN_TOKENS, SPECIAL_TOKENS, VOCABULARY
from workers.qwen.demo.training import PROMPTS, Recipe
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, load_model


def test_the_demo_model_finds_the_object(demo: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    score = measure(demo, count=32, seed=2_024)

    with capsys.disabled():
        print(f"\nthe demo model on 32 new pictures: {score}")  # noqa: T201
    assert score.iou >= 0.6
    assert score.found >= 0.9
    assert score.labelled >= 0.9


@pytest.mark.parametrize("prompt", [*PROMPTS[1:], "Where is it?"])
def test_the_demo_model_finds_the_object_however_it_is_asked(demo: LoadedModel, prompt: str) -> None:
    assert measure(demo, count=4, seed=2_025, prompt=prompt).found >= 0.5


def test_the_packaged_weights_are_small_and_in_16_bits() -> None:
    with safe_open(DEMO_FOLDER / "model.safetensors", "pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - not a dict

    assert dtypes == {"BF16"}
    assert sum(file.stat().st_size for file in DEMO_FOLDER.iterdir()) < 3_000_000


def test_the_packaged_files_are_those_that_the_code_makes(tmp_path: Path) -> None:
    _, processor = build(seed=0)
    processor.save_pretrained(tmp_path)

    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (DEMO_FOLDER / name).read_text(), name


def test_a_checkpoint_is_made_and_the_same_seed_makes_the_same(tmp_path: Path) -> None:
    recipe = Recipe(steps=2, batch=2)
    for name in ("one", "two"):
        make_checkpoint(tmp_path / name, recipe)

    one, two = (load_model(tmp_path / name).model.state_dict() for name in ("one", "two"))

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "one").iterdir()} == {0o644}


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=1_000, rate=1.0, warm_up=100, decay=0.2)

    rates = [recipe.rate_at(step) for step in (0, 49, 99, 500, 799, 900, 999)]

    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_the_tokenizer_cuts_as_qwens_does(demo: LoadedModel) -> None:
    tokenizer = demo.processor.tokenizer

    assert len(tokenizer) == VOCABULARY
    assert tokenizer.convert_ids_to_tokens(list(range(998, 1_024))) == [*SPECIAL_TOKENS, *PLAIN_TOKENS]
    assert tokenizer.tokenize("1024") == ["1", "0", "2", "4"]
    for word in ("user", "assistant", "system"):
        assert tokenizer.tokenize(word) == [word]


@pytest.mark.parametrize(
    "text", ['[{"bbox_2d": [1, 22, 333, 1000]}]', "定位图中的目标 🎉 é\t\n\n  x", "<think>it's 5</think>"]
)
def test_every_text_survives_the_tokenizer(demo: LoadedModel, text: str) -> None:
    tokenizer = demo.processor.tokenizer

    assert tokenizer.decode(tokenizer(text).input_ids) == text


def _user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


PICTURE, VIDEO = {"type": "image", "image": "a.png"}, {"type": "video", "video": "a.mp4"}
LINK = {"type": "image_url", "image_url": {"url": "a.png"}}
TEXT = {"type": "text", "text": " Where is\n the cat? "}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [_user(PICTURE, TEXT)],
    [_user(TEXT, PICTURE, LINK, VIDEO, TEXT)],
    [_user()],
    [{"role": "system", "content": "be brief"}, _user(PICTURE, TEXT)],
    [{"role": "system", "content": [TEXT, PICTURE]}, _user(TEXT)],
    [_user(PICTURE, TEXT), {"role": "assistant", "content": "here"}, _user(PICTURE, TEXT)],
    [_user(TEXT), {"role": "assistant", "content": [TEXT]}, {"role": "user", "content": "thanks"}],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=json.dumps)
@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
def test_our_chat_template_renders_as_qwen3_vls(
    demo: LoadedModel, conversation: list[dict[str, Any]], begin: bool, numbered: bool
) -> None:
    def render(template: str | None) -> object:
        return demo.processor.tokenizer.apply_chat_template(
            conversation,
            chat_template=template or demo.processor.chat_template,
            tokenize=False,
            add_generation_prompt=begin,
            add_vision_id=numbered,
        )

    assert render(None) == render(qwen3_vl_chat_template)


@pytest.mark.parametrize("role", ["tool", "developer"])
def test_a_role_that_the_template_does_not_know_is_an_error(demo: LoadedModel, role: str) -> None:
    with pytest.raises(Exception, match="a message is of the role user or assistant"):
        demo.processor.tokenizer.apply_chat_template(
            [{"role": role, "content": "x"}], chat_template=demo.processor.chat_template, tokenize=False
        )
