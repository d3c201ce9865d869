"""What a model is taught is what it is asked later, however the data is laid out."""

import json
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.qwen.training_sets import assert_same, converted, dataset, reasons, row, spec
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput
from vlyard.formats.converted import open_converted
from vlyard.formats.report import VERSION
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.inputs import encode, patches
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, Processor
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.training.preparing import Prepared, open_processor, prepare

OTHER_SHAPES = ("sharegpt-from-value", "qwen", "swift", "trl")


@pytest.fixture(scope="module")
def processor() -> Processor:
    return open_processor(DEMO_FOLDER)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_dataset(folder, count=4, seed=9)
    return folder


# --- what the model is taught ---------------------------------------------------------------------------------


@pytest.mark.parametrize("to", OTHER_SHAPES)
def test_every_shape_that_a_conversion_writes_teaches_the_same(
    shapes: Path, tmp_path: Path, processor: Processor, to: str
) -> None:
    usual = prepare(spec(), converted(shapes, tmp_path / "usual"), processor)

    other = prepare(spec(), converted(shapes, tmp_path / "other", to=to), processor)

    assert (len(other.learned), len(other.held_out), other.prompt) == (3, 1, DEFAULT_PROMPT)
    for one, same in ((usual.learned, other.learned), (usual.held_out, other.held_out)):
        for at in range(len(one)):
            assert_same(one[at], same[at])


def test_the_tutorials_shape_teaches_the_objects_wrapper(shapes: Path, tmp_path: Path, processor: Processor) -> None:
    wrapped = prepare(spec(answers="objects"), converted(shapes, tmp_path / "a", answer="objects"), processor)

    tutorial = prepare(spec(answers="objects"), converted(shapes, tmp_path / "b", to="tutorial"), processor)

    for at in range(3):
        assert_same(wrapped.learned[at], tutorial.learned[at])


@pytest.mark.parametrize("budget", [{}, {"min_pixels": 64 * 64, "max_pixels": 90_000}, {"min_pixels": 100_000}])
def test_what_is_taught_is_what_is_asked_later(
    shapes: Path, tmp_path: Path, processor: Processor, budget: dict[str, int]
) -> None:
    folder = converted(shapes, tmp_path / "set")
    source = open_converted(folder)
    prepared = prepare(spec(system="Be kind.", **budget), folder, processor)

    for at, sample in enumerate(source.samples("grounding")):
        turns = (Turn("system", ("Be kind.",)), Turn("user", (source.picture(sample), sample.question)))
        asked = encode(processor, Request(turns, budget=Budget(**budget)))
        item = prepared.learned[at]
        length = len(asked.ids)
        assert item.ids[:length].tolist() == asked.ids.tolist()
        assert set(item.labels[:length].tolist()) == {-100}
        assert processor.tokenizer.decode(item.labels[item.labels != -100]) == f"{sample.answer}<|im_end|>"
        assert item.pixels is not None
        assert torch.equal(item.pixels, patches(processor, asked.shown[0]))
        assert (prepared.min_pixels, prepared.max_pixels) == asked.shown[0].size
        assert prepared.learned.lengths[at] == len(item.ids)


CONVERSATIONS = (
    [
        ("user", "<image>\nOne: <image>Two."),
        ("assistant", "Ja. \u00e9\u4e2d\U0001f600"),
        ("user", "And?"),
        ("assistant", "\n\nNo"),
    ],
    [("system", "Be kind."), ("user", "See <image>"), ("assistant", "I see.")],
    [("user", "No picture."), ("assistant", "[]")],
)  # fmt: skip
IMAGES: tuple[list[str], ...] = (["0.png", "1.png"], ["2.png"], [])


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"conversations": [{"from": role, "value": text} for role, text in turns], "images": images}
        for turns, images in zip(CONVERSATIONS, IMAGES, strict=True)
    ]
    return dataset(tmp_path_factory.mktemp("spoken") / "set", rows)


def messages(folder: Path, at: int) -> list[dict[str, Any]]:
    """The same conversation as Qwen's processor takes it."""
    pictures, listed = iter(IMAGES[at]), []
    for role, text in CONVERSATIONS[at]:
        parts: list[dict[str, Any]] = []
        for number, words in enumerate(text.replace("<image>\n", "<image>").split("<image>")):
            parts += [{"type": "image", "image": Image.open(folder / next(pictures))}] if number else []
            parts += [{"type": "text", "text": words}] if words else []
        listed.append({"role": role, "content": parts})
    return listed


def of_trl(name: str) -> str:
    """A chat template that comes with TRL: Qwen3-VL's own, or with its answers marked."""
    trl = find_spec("trl")
    assert trl is not None
    return (Path(str(trl.origin)).with_name("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")


def test_a_batch_is_what_qwens_processor_makes_of_the_same_conversations(spoken: Path, processor: Processor) -> None:
    prepared = prepare(spec(), spoken, processor)

    batch = prepared.collate([prepared.learned[at] for at in range(3)])

    expected = processor.apply_chat_template(
        [messages(spoken, at) for at in range(3)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "right"}},
    )
    assert batch.keys() - {"labels"} == expected.keys()
    for name in expected:
        assert torch.equal(batch[name], expected[name]), name


def test_what_is_learned_is_what_trls_template_marks_but_for_the_line_break_behind_it(
    spoken: Path, processor: Processor
) -> None:
    prepared = prepare(spec(), spoken, processor)
    template = of_trl("qwen3_vl_training")
    for at in range(3):
        item = prepared.learned[at]

        marked = processor.apply_chat_template(
            messages(spoken, at),
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )

        assert item.ids.tolist() == marked["input_ids"][0]
        mask = list(marked["assistant_masks"][0])
        for place in [place for place, id in enumerate(item.ids.tolist()) if id == processor.tokenizer.eos_token_id]:
            mask[place + 1] = 0
        assert (item.labels != -100).int().tolist() == mask
        assert item.labels[item.labels != -100].tolist() == item.ids[item.labels != -100].tolist()


def test_qwens_own_template_teaches_what_the_demo_models_does(spoken: Path, processor: Processor) -> None:
    usual = prepare(spec(), spoken, processor).learned

    qwens = prepare(spec(chat_template=of_trl("qwen3_vl")), spoken, processor).learned

    for at in range(2):
        assert_same(usual[at], qwens[at])


def test_samples_in_a_batch_teach_what_they_teach_alone(spoken: Path, processor: Processor, demo: LoadedModel) -> None:
    prepared = prepare(spec(), spoken, processor)
    items = [prepared.learned[at] for at in (0, 1)]

    with torch.inference_mode():
        together = demo.model(**prepared.collate(items)).loss
        alone = [demo.model(**prepared.collate([item])).loss for item in items]

    counts = [int((item.labels != -100).sum()) for item in items]
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together.item() == pytest.approx(mean.item(), rel=1e-5)


def test_a_turned_photo_is_learned_upright(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [row(images=["turned.jpg"]), row(images=["upright.png"])])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "1.png").save(folder / "turned.jpg", exif=exif, quality=100)
    Image.open(folder / "turned.jpg").transpose(Image.Transpose.ROTATE_270).save(folder / "upright.png")

    learned = prepare(spec(), folder, processor).learned

    assert_same(learned[0], learned[1])
    assert learned.pictures[0].rows > learned.pictures[0].columns


def test_samples_travel_to_processes_that_load_them(spoken: Path, processor: Processor) -> None:
    learned = prepare(spec(), spoken, processor).learned

    assert_same(pickle.loads(pickle.dumps(learned))[0], learned[0])


# --- templates ------------------------------------------------------------------------------------------------


def test_a_template_of_ones_own_is_used(spoken: Path, processor: Processor) -> None:
    own = str(processor.chat_template).replace("<|im_start|>user", "<|im_start|>human")

    learned = prepare(spec(chat_template=own), spoken, processor).learned

    assert processor.tokenizer.decode(learned.tokens(2)[0]).startswith("<|im_start|>human\nNo picture.")


REWRITING = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text if 'text' in p else '<|image_pad|>' }}"
    "{% endfor %}{% if m.role == 'assistant' and not loop.last %} (earlier){% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_template_that_rewrites_earlier_answers_is_refused_where_there_are_some(
    spoken: Path, processor: Processor
) -> None:
    prepared = prepare(spec(chat_template=REWRITING, policy="quarantine"), spoken, processor)

    assert reasons(prepared) == {"data.json: sample 1": "template"}
    assert "what is learned cannot be told apart" in prepared.unusable[0].message


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% if", "refuses it"),
        ("{{ messages[5].role }}", "refuses it"),
        (REWRITING.replace("<|im_end|>", "\n"), "does not end an answer"),
        (REWRITING.replace("<|image_pad|>", "picture"), "room for 0 pictures"),
        (REWRITING.replace("assistant: {% endif", "the assistant says: {% endif"), "cannot be told apart"),
    ],
)
def test_a_template_that_cannot_be_learned_with_is_refused_by_its_field(
    spoken: Path, processor: Processor, template: str, what: str
) -> None:
    with pytest.raises(InvalidInput, match=what) as caught:
        prepare(spec(chat_template=template), spoken, processor)

    assert caught.value.complaints[0].where == "/spec/chat_template"


# --- how data is laid out -------------------------------------------------------------------------------------


def answers(processor: Processor, prepared: Prepared, *, held_out: bool = False) -> list[str]:
    samples = prepared.held_out if held_out else prepared.learned
    read = (samples.tokens(at) for at in range(len(samples)))
    return [processor.tokenizer.decode(ids[learned == 1]).removesuffix("<|im_end|>") for ids, learned in read]


def test_data_without_splits_is_learned_whole_and_a_limit_takes_the_first(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [row(answer="a"), row(answer="b")], "one.json")
    (folder / "two.jsonl").write_text(f"{json.dumps(row(answer='c'))}\n\n{json.dumps(row(answer='d'))}\n")

    assert answers(processor, prepare(spec(), folder, processor)) == ["a", "b", "c", "d"]
    assert answers(processor, prepare(spec(limit=3), folder, processor)) == ["a", "b", "c"]


def test_splits_are_known_by_the_names_of_files_and_what_is_held_out_is_not_learned(
    tmp_path: Path, processor: Processor
) -> None:
    folder = tmp_path / "packed" / "set"
    folder.parent.mkdir()
    for name in ("things", "things_val", "things_test"):
        dataset(folder, [row(answer=name)], f"{name}.json")

    usual = prepare(spec(), tmp_path / "packed", processor)
    other = prepare(spec(splits=["train", "test"], held_out=None), tmp_path / "packed", processor)

    assert answers(processor, usual) == ["things"]
    assert answers(processor, usual, held_out=True) == ["things_val"]
    assert answers(processor, other) == ["things", "things_test"]
    assert len(other.held_out) == 0
    with pytest.raises(InvalidInput, match=r"/spec/splits: the dataset has no split 'more'.*it has train, test, val"):
        prepare(spec(splits=["more"]), tmp_path / "packed", processor)


def test_a_description_says_which_columns_and_tags_there_are(tmp_path: Path, processor: Processor) -> None:
    told = {"who": "frage", "what": "<image>What?"}, {"who": "antwort", "what": "This."}
    folder = dataset(tmp_path / "set", [{"talk": told, "photos": ["0.png"], "rule": "Be brief."}], "one.json")
    dataset(folder, [row()], "left_out.json")
    columns = {"messages": "talk", "images": "photos", "system": "rule"}
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "frage", "assistant_tag": "antwort"}
    entry = {"file_name": "one.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"one": entry}))

    prepared = prepare(spec(system="Be long."), folder, processor)

    assert answers(processor, prepared) == ["This."]
    assert "Be brief." in processor.tokenizer.decode(prepared.learned.tokens(0)[0])
    assert "Be long." not in processor.tokenizer.decode(prepared.learned.tokens(0)[0])


@pytest.mark.parametrize(
    ("info", "what"),
    [
        ("{", "this is not JSON"),
        ("{}", "it names no data set"),
        ('{"a": {"file_name": "data.json"}}', "dataset_info.json: a: its formatting is 'alpaca', the default"),
        ('{"a": {"file_name": "no.json", "formatting": "sharegpt"}}', "there is no file 'no.json'"),
        ('{"a": {"file_name": "/etc/passwd", "formatting": "sharegpt"}}', "there is no file '/etc/passwd'"),
        ('{"a": {"hf_hub_url": "x/y"}}', "it is fetched by hf_hub_url"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused_by_its_entry(
    tmp_path: Path, processor: Processor, info: str, what: str
) -> None:
    folder = dataset(tmp_path / "set", [row()])
    (folder / "dataset_info.json").write_text(info)

    with pytest.raises(InvalidInput, match=what):
        prepare(spec(), folder, processor)


def test_a_folder_in_no_known_form_is_refused(tmp_path: Path, shapes: Path, processor: Processor) -> None:
    with pytest.raises(InvalidInput, match="no JSON or JSONL of conversations"):
        prepare(spec(), shapes, processor)
    with pytest.raises(InvalidInput, match="no questions and answers"):
        prepare(spec(), converted(shapes, tmp_path / "labels", to="coco"), processor)
    folder = dataset(tmp_path / "set", [])
    (folder / "data.json").write_text('[{"messages": [')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "report.json").write_text(f'{{"version": {VERSION}, "data_sets": 5}}')
    with pytest.raises(InvalidInput, match=r"report\.json: it does not name the data sets"):
        prepare(spec(), tmp_path / "odd", processor)
    with pytest.raises(InvalidInput, match=r"data\.json: this is not JSON"):
        prepare(spec(), folder, processor)


def test_samples_that_a_link_leads_to_are_not_read(tmp_path: Path, processor: Processor) -> None:
    elsewhere = dataset(tmp_path / "elsewhere", [row(answer="secret")])
    folder = dataset(tmp_path / "set", [row(answer="own")], "own.json")
    (folder / "more.json").symlink_to(elsewhere / "data.json")

    assert answers(processor, prepare(spec(), folder, processor)) == ["own"]


def test_a_line_that_is_no_json_is_one_sample_that_cannot_be_learned(tmp_path: Path, processor: Processor) -> None:
    folder = dataset(tmp_path / "set", [], "empty.json")
    (folder / "data.jsonl").write_text(f"{json.dumps(row())}\n{{oops\n{json.dumps(row())}\n")

    prepared = prepare(spec(policy="quarantine"), folder, processor)

    assert reasons(prepared) == {"data.jsonl: sample 2": "wrong_form"}
    assert len(prepared.learned) == 2


def test_pictures_without_a_place_stand_before_the_first_question(tmp_path: Path, processor: Processor) -> None:
    placed = row("<image><image>What?", images=["0.png", "1.png"])
    parts = [{"type": "image", "image": "0.png"}, {"type": "image"}, {"type": "text", "text": "What?"}]
    prompt = [{"role": "user", "content": parts}]
    prompted = {"prompt": prompt, "completion": placed["messages"][1:], "images": [{"path": "1.png"}]}
    folder = dataset(tmp_path / "set", [placed, row("What?", images=["0.png", "1.png"])], "a.json")
    dataset(folder, [prompted], "b.json")

    learned = prepare(spec(), folder, processor).learned

    assert_same(learned[0], learned[1])
    assert_same(learned[0], learned[2])


def test_ms_swifts_slots_are_filled_in_thousandths_of_the_picture_that_they_are_in(
    tmp_path: Path, processor: Processor
) -> None:
    objects = {
        "ref": ["cat", "dog"], "bbox": [[64, 64, 128, 300], [250, 45]], "bbox_type": "real", "image_id": [0, 1],
    }  # fmt: skip
    question, answer = "<image><image>Where are <ref-object> and <ref-object>?", "At <bbox> and <bbox>."
    folder = dataset(tmp_path / "set", [{**row(question, answer, ["0.png", "1.png"]), "objects": objects}])

    prepared = prepare(spec(), folder, processor)

    assert prepared.prompt == "Where are cat and dog?"
    assert answers(processor, prepared) == ["At [250, 250, 500, 1000] and [500, 500]."]
