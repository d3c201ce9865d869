"""What can be asked of a model, and what cannot."""

import base64
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from vlyard.jobs.inference import MOST_PICTURES, InferenceSpec, PicturePart, PictureUrlPart, TextPart
from vlyard.jobs.prediction import PredictionSpec
from vlyard.jobs.spec import Reference

PICTURE, OTHER = UUID(int=1), UUID(int=2)
URL = "messages/0/content/0/image_url/image_url/url"
DATA = "data:image/png;base64," + base64.b64encode(b"a picture").decode()


def ask(**fields: Any) -> InferenceSpec:
    return InferenceSpec.model_validate({"image": PICTURE, "prompt": "What?", **fields})


def talk(*messages: dict[str, Any], **fields: Any) -> InferenceSpec:
    return InferenceSpec.model_validate({"messages": messages, **fields})


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 and isinstance(content[0], str) else content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(id: UUID) -> dict[str, Any]:
    return {"type": "image", "image": str(id)}


def url(value: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": value}}


def why_not(make: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        make()
    [fault] = caught.value.errors()
    return f"{'/'.join(map(str, fault['loc']))}: {fault['msg']}"


def test_a_picture_and_a_prompt_are_sampled_as_the_tutorial_does() -> None:
    spec = ask()

    assert (spec.temperature, spec.top_p, spec.top_k, spec.new_tokens, spec.do_sample) == (0.7, 0.8, 20, 128, True)
    assert (spec.repetition_penalty, spec.presence_penalty, spec.frequency_penalty) == (1, 0, 0)
    assert spec.inputs() == (PICTURE,)
    assert spec.trees() == ()


def test_a_conversation_shows_pictures_in_every_way_that_there_is() -> None:
    spec = talk(
        {"role": "system", "content": "Be brief."},
        user(picture(PICTURE), url(f"artefact:{OTHER}"), url(DATA), text("Which differ?")),
        {"role": "assistant", "content": "The second."},
        user("And how?"),
    )

    assert spec.inputs() == (PICTURE, OTHER)
    first, second, third, words = spec.messages[1].content
    assert isinstance(first, PicturePart)
    assert isinstance(second, PictureUrlPart)
    assert isinstance(third, PictureUrlPart)
    assert (second.image_url.artefact, third.image_url.artefact) == (OTHER, None)
    assert third.image_url.content == b"a picture"
    assert words == TextPart(text="Which differ?")
    assert spec.messages[3].content == (TextPart(text="And how?"),)
    assert InferenceSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_preset_brings_its_words_and_the_room_that_its_answers_need() -> None:
    spec = ask(prompt=None, preset="ground", classes=["cat", "dog"])

    assert "cat" in (spec.question() or "")
    assert spec.new_tokens > 128
    assert ask(prompt=None, preset="ground", max_new_tokens=5).new_tokens == 5
    assert (
        ask(prompt=None, preset="describe", language="zh").question() != ask(prompt=None, preset="describe").question()
    )


def test_a_model_may_be_an_artefact_or_what_another_job_makes() -> None:
    spec = ask(model=str(OTHER), adapter=f"job:{PICTURE}/adapter")

    assert spec.inputs()[:2] == (PICTURE, OTHER)
    assert spec.trees()[0] == OTHER
    assert isinstance(spec.adapter, Reference)
    assert [pointer for pointer, _ in spec.references()] == ["/adapter"]
    assert InferenceSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", ["demo", "Qwen3-VL-2B", "hub:Qwen/Qwen3-VL-2B-Instruct", "hub:a/b@refs/pr/1"])
def test_a_model_is_named(name: str) -> None:
    assert ask(model=name).model == name


@pytest.mark.parametrize(
    "name", ["..", ".", "../demo", "a/b", "/etc", "", ".hidden", "a\n", "hub:a", "hub:../b", "hub:a/b/c", "a" * 301, 7]
)
def test_a_models_name_is_never_a_path(name: object) -> None:
    assert why_not(lambda: ask(model=name)).startswith("model: ")


# fmt: off
WRONG: list[tuple[str, dict[str, Any]]] = [
    (": Value error, there is no question", {"prompt": None}),
    (": Value error, there is no picture", {"image": None}),
    (": Value error, give a prompt or a preset, not both", {"preset": "describe"}),
    (": Value error, classes, keys and description fill a preset", {"classes": ["cat"]}),
    (": Value error, give only one of image and images", {"images": [OTHER]}),
    (": Value error, give only one of image and messages", {"messages": [user("x")]}),
    (": Value error, images names a picture twice", {"image": None, "images": [OTHER, OTHER]}),
    (": Value error, min_pixels is larger than max_pixels", {"min_pixels": 9, "max_pixels": 8}),
    ("images: Tuple should have at most 64 items", {"image": None, "images": [uuid4() for _ in range(1_000)]}),
    ("temperature: ", {"temperature": 0}),
    ("repetition_penalty: ", {"repetition_penalty": 0}),
    ("presence_penalty: ", {"presence_penalty": 3}),
    ("stop/0: ", {"stop": [""]}),
    ("seed: ", {"seed": -1}),
    ("gpus: ", {"gpus": 0}),
    ("preset: ", {"preset": "guess", "prompt": None}),
]
# fmt: on


@pytest.mark.parametrize(("expected", "fields"), WRONG, ids=[each[0][:50] for each in WRONG])
def test_what_cannot_be_asked_is_refused_by_its_field(expected: str, fields: dict[str, Any]) -> None:
    assert why_not(lambda: ask(**fields)).startswith(expected)


# fmt: off
CONVERSATIONS: list[tuple[str, list[dict[str, Any]]]] = [
    ("user and assistant take turns", [user("a"), user("b")]),
    ("user and assistant take turns", [user("a"), {"role": "assistant", "content": "b"}]),
    ("user and assistant take turns", [{"role": "system", "content": "a"}]),
    ("a system message comes first", [user("a"), {"role": "system", "content": "b"}, user("c")]),
    ("only a user's message shows", [user("a"), {"role": "assistant", "content": [picture(PICTURE)]}, user("b")]),
    ("messages/0: Value error, the content is empty", [{"role": "user", "content": []}]),
    (f"{URL}: Value error, links are not followed", [user(url("https://a/b.png"))]),
    (f"{URL}: Value error, links are not followed", [user(url("file:///etc/passwd"))]),
    (f"{URL}: Value error, a data URI", [user(url("data:image/png,abc"))]),
    (f"{URL}: Value error, what follows", [user(url("data:image/png;base64,a!"))]),
    (f"{URL}: ", [user(url("artefact:nonsense"))]),
    ("messages/0/role: ", [{"role": "tool", "content": "a"}]),
    (f"the messages show {MOST_PICTURES + 1} pictures", [user(*[picture(uuid4()) for _ in range(MOST_PICTURES + 1)])]),
]
# fmt: on


@pytest.mark.parametrize(("expected", "messages"), CONVERSATIONS)
def test_a_conversation_that_cannot_be_held_is_refused(expected: str, messages: list[dict[str, Any]]) -> None:
    assert expected in why_not(lambda: talk(*messages))


def test_a_conversation_holds_all_that_is_said() -> None:
    for more in ({"prompt": "x"}, {"preset": "describe"}, {"system": "x"}):
        assert "messages hold the whole conversation" in why_not(lambda more=more: talk(user("a"), **more))


def test_a_prediction_is_split_into_shards_that_read_the_same_dataset() -> None:
    whole = PredictionSpec(dataset=PICTURE, prompt="x", shards=3)

    parts = [part for part in whole.split_up(uuid4).values() if isinstance(part, PredictionSpec)]

    assert [(part.shard, part.shards, part.inputs()) for part in parts] == [(n, 3, (PICTURE,)) for n in range(3)]
    assert all(not part.split_up(uuid4) for part in parts)
    gathering = whole.gathering([OTHER, PICTURE, uuid4()])
    assert [reference.output for _, reference in gathering.references()] == ["predictions"] * 3
    assert gathering.trees() == ()


def test_a_datasets_own_questions_have_room_for_boxes() -> None:
    assert PredictionSpec(dataset=PICTURE).new_tokens > PredictionSpec(dataset=PICTURE, prompt="x").new_tokens == 128


def test_a_shard_that_there_is_not_is_refused() -> None:
    assert "the last of 2 is 1" in why_not(lambda: PredictionSpec(dataset=PICTURE, shards=2, shard=2))
