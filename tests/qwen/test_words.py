import pytest

from workers.qwen.loading import LoadedModel
from workers.qwen.words import Transcript, decode


def test_boxes_in_the_legacy_form_survive_decoding_and_ends_do_not(demo: LoadedModel) -> None:
    spoken = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    tokens = demo.processor.tokenizer(f"{spoken}<|im_end|><|endoftext|>").input_ids

    assert decode(demo.processor, tokens) == spoken


def test_a_byte_that_no_database_stores_is_replaced(demo: LoadedModel) -> None:
    tokens = demo.processor.tokenizer("a\0b").input_ids

    assert decode(demo.processor, tokens) == "a\ufffdb"


TEXT = "Ein Wörtchen, 猫 and 🐈‍⬛: <|box_start|>(1,2)<|box_end|> \0 end."


@pytest.mark.parametrize("stop", [(), ("nowhere",)])
def test_a_transcript_grows_by_whole_characters_to_the_whole_text(demo: LoadedModel, stop: tuple[str, ...]) -> None:
    tokens = demo.processor.tokenizer(TEXT).input_ids
    transcript = Transcript(demo.processor, stop)
    heard = []
    for token in tokens:
        transcript.add(token)
        heard.append(transcript.news(last=False))
    transcript.end()
    heard.append(transcript.news(last=True))

    assert "".join(heard) == transcript.text == decode(demo.processor, tokens)
    assert len([words for words in heard if words]) > 10
    assert "\ufffd" not in "".join(heard).replace(" \ufffd end", "")


def test_a_text_that_breaks_off_within_a_character_keeps_what_there_is(demo: LoadedModel) -> None:
    tokens = demo.processor.tokenizer("a🐈").input_ids[:-1]
    transcript = Transcript(demo.processor, ())
    for token in tokens:
        transcript.add(token)
    assert transcript.text == "a"

    transcript.end()

    assert transcript.text == decode(demo.processor, tokens)


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        (("猫",), "Ein Wörtchen, "),
        (("nd 🐈", "nobody"), "Ein Wörtchen, 猫 a"),
        (("n, 猫 a", "W"), "Ein "),  # the first to come, whichever was named first
        (("Ein",), ""),
    ],
)
def test_a_stop_word_across_tokens_is_found_and_never_told(demo: LoadedModel, stop: tuple[str, ...], kept: str) -> None:
    transcript = Transcript(demo.processor, stop)
    heard = ""
    for token in demo.processor.tokenizer(TEXT).input_ids:
        transcript.add(token)
        heard += transcript.news(last=False)

    assert transcript.stopped
    assert heard == transcript.text == kept
