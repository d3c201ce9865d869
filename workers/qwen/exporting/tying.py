"""Whether the words that go into a model and those that come out of it are one tensor. It knows no adapter."""

from collections.abc import Mapping
from pathlib import Path

from workers.qwen.checkpoint import CONFIG, read_json
from workers.qwen.exporting.shards import Stored

WORDS_IN, WORDS_OUT = "model.language_model.embed_tokens.weight", "lm_head.weight"
_READ = 4 << 20  # bytes of each that are compared at a time


def are_tied(base: Path, stored: Mapping[str, Stored]) -> bool:
    """Whether they are as transformers load them: config.json says so, and the files have no two that differ.

    `stored` are the tensors of the folder `base`. Raises `InvalidInput` where config.json is unreadable.
    """
    if not says_tied(base):
        return False
    ends = [stored[name] for name in (WORDS_IN, WORDS_OUT) if name in stored]
    return len(ends) < 2 or _are_the_same(*ends)


def says_tied(folder: Path) -> bool:
    """What config.json says, where transformers look: at its top. Raises `InvalidInput` where it is unreadable."""
    return bool(read_json(folder / CONFIG).get("tie_word_embeddings"))


def _are_the_same(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.at)
        second.seek(other.at)
        counts = (min(_READ, one.bytes - at) for at in range(0, one.bytes, _READ))
        return all(first.read(count) == second.read(count) for count in counts)
