"""Reading and tokenising a whole dataset before anything is learned, so that what cannot be is known before a step.

It opens no picture further than its header, and knows no weights. Every sample is learned, held out, or listed with
the reason why it is neither.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from transformers import Qwen3VLProcessor

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.learning import LearningSpec
from workers.qwen.checkpoint import check_checkpoint, refused
from workers.qwen.loading import Processor
from workers.qwen.training.collating import Collator, Growing, Pictured, Samples
from workers.qwen.training.encoding import Encoder, Rendered, Tokens, expect_form
from workers.qwen.training.pictures import Measured, Pictures, budget_of
from workers.qwen.training.rows import DataSet, Row, find_data, rows
from workers.qwen.training.turns import Unlearnable, filled, read_conversation

_AT_ONCE = 512  # samples that are tokenised together
_NAMED = 5  # of the samples that cannot be learned, in the message of an error

Told = Callable[[int], None]  # how many samples were read


@dataclass(frozen=True)
class Unusable:
    """A sample that cannot be learned, and why."""

    sample: str  # train.json: sample 3
    code: str  # such as too_long, no_picture, wrong_form
    message: str


@dataclass(frozen=True)
class Prepared:
    """A dataset, ready to be learned."""

    learned: Samples
    held_out: Samples
    collate: Collator
    unusable: tuple[Unusable, ...]
    min_pixels: int  # the budget that pictures are brought into
    max_pixels: int
    prompt: str | None  # the first learned sample's question


def prepare(spec: LearningSpec, dataset: Path, processor: Processor, told: Told = lambda _: None) -> Prepared:
    """Read and tokenise all samples of a dataset's folder.

    Raises `InvalidInput` where the folder holds no data in a known form, where no sample can be learned, and under
    the policy `refuse` where some cannot: it names the first of them.
    """
    encoder, budget = Encoder(processor, spec.chat_template), budget_of(processor, spec)
    data = find_data(spec, dataset)
    reading = _Reading(spec, encoder, Pictures(data.tree, processor, budget), told)
    learned, held_out = reading.read(data.learned), reading.read(data.held_out)
    unusable = tuple(reading.unusable)
    _expect_samples(spec, len(learned.sources) // 2, reading.count, unusable)
    return Prepared(
        learned.samples(data.tree.root, processor, budget),
        held_out.samples(data.tree.root, processor, budget),
        Collator(processor.tokenizer.pad_token_id, processor.image_token_id),
        unusable,
        *budget,
        reading.prompt,
    )


def open_processor(folder: Path) -> Processor:
    """A checkpoint's processor, without its weights. Raises `InvalidInput` where the folder is no whole Qwen3-VL."""
    check_checkpoint(folder)
    try:
        processor = Qwen3VLProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ImportError) as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise refused(folder.name, f"its processor cannot be read: {first}", "copy the checkpoint again") from damage
    return processor


def _expect_samples(spec: LearningSpec, learned: int, count: int, unusable: Sequence[Unusable]) -> None:
    first = [Complaint(each.sample, each.message) for each in unusable[:_NAMED]]
    if unusable and spec.policy == "refuse":
        what = f"{len(unusable)} of {count} samples cannot be learned"
        raise InvalidInput(f"{what}; correct them, or choose the policy quarantine to leave them out", first)
    if not learned:
        what = "no sample can be learned" if unusable else "there are no samples"
        raise InvalidInput(f"The dataset cannot be learned: {what}", first)


@dataclass
class _Ready:
    """A sample whose words and pictures are known, and whose tokens are not."""

    rendered: Rendered
    pictures: Sequence[Measured]
    question: str


@dataclass
class _Reading:
    """One pass over the files of a dataset."""

    spec: LearningSpec
    encoder: Encoder
    pictures: Pictures
    told: Told
    unusable: list[Unusable] = field(default_factory=list)
    count: int = 0
    prompt: str | None = None

    def read(self, data_sets: Iterable[DataSet]) -> Growing:
        """The samples of these files, as many as the specification wants; the others are listed."""
        growing, left = Growing(), self.spec.limit
        for data_set in data_sets:
            growing.names.append(data_set.name)
            for some in _batches(islice(rows(data_set), left)):
                self._take(data_set, some, growing)
                left = None if left is None else left - len(some)
                self.count += len(some)
                self.told(self.count)
        return growing

    def _take(self, data_set: DataSet, some: Sequence[Row], growing: Growing) -> None:
        read = [self._guarded(data_set, row) for row in some]
        tokens = self.encoder.tokenise([each.rendered for each in read if isinstance(each, _Ready)])
        for row, each in zip(some, read, strict=True):
            reason = self._add(row.number, each, next(tokens), growing) if isinstance(each, _Ready) else each
            if isinstance(reason, Unlearnable):
                self.unusable.append(Unusable(f"{data_set.name}: sample {row.number}", reason.code, reason.message))

    def _guarded(self, data_set: DataSet, row: Row) -> _Ready | Unlearnable:
        try:
            return self._ready(data_set, row)
        except Unlearnable as reason:
            return reason

    def _ready(self, data_set: DataSet, row: Row) -> _Ready:
        conversation = read_conversation(row.said, data_set.columns, self.spec.system)
        pictures = [self.pictures.measure(path, data_set.file.parent) for path in conversation.pictures]
        conversation = filled(conversation, [picture.size for picture in pictures])
        expect_form(conversation, self.spec.answers)
        return _Ready(self.encoder.render(conversation), pictures, conversation.question)

    def _add(self, number: int, ready: _Ready, tokens: Tokens, growing: Growing) -> Unlearnable | None:
        pictured = [Pictured(each.name, *each.grid) for each in ready.pictures]
        length = len(tokens.ids) + sum(self.pictures.tokens_of(each.grid) - 1 for each in ready.pictures)
        if length > self.spec.max_tokens:
            what = f"it has {length} tokens, more than max_tokens, {self.spec.max_tokens}"
            return Unlearnable("too_long", f"{what}: raise that, or lower max_pixels")
        if self.prompt is None:
            self.prompt = ready.question
        growing.add(number, tokens.ids, tokens.learned, pictured, length)
        return None


def _batches(every: Iterator[Row]) -> Iterator[Sequence[Row]]:
    while some := list(islice(every, _AT_ONCE)):
        yield some
