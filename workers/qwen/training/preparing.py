"""Reading and tokenising a whole dataset before anything is learned, so that what cannot be is known before a step.

It decodes every picture once, and knows no weights. Every sample is learned, held out, or listed with the reason why
it is neither.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from workers.qwen.training.frames import Frames
from workers.qwen.training.pictures import Measured, Pictures, budget_of
from workers.qwen.training.rows import DataSet, Row, find_data, rows
from workers.qwen.training.turns import Conversation, Unlearnable, filled, read_conversation

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
    frames: Frames  # what the answers' boxes look like


def prepare(spec: LearningSpec, dataset: Path, processor: Processor, told: Told = lambda _: None) -> Prepared:
    """Read and tokenise all samples of a dataset's folder.

    Raises `InvalidInput` where the folder holds no data in a known form, where no sample can be learned, and under
    the policy `refuse` where some cannot: it names the first of them. So it does where held-out samples are needed and
    there are none.
    """
    encoder, budget = Encoder(processor, spec.chat_template), budget_of(processor, spec)
    data = find_data(spec, dataset)
    reading = _Reading(spec, encoder, Pictures(data.tree, processor, budget), told)
    learned, held_out = reading.read(data.learned), reading.read(data.held_out)
    prepared = Prepared(
        learned.samples(data.tree.root, processor, budget),
        held_out.samples(data.tree.root, processor, budget),
        Collator(processor.tokenizer.pad_token_id, processor.image_token_id),
        tuple(reading.unusable),
        *budget,
        reading.prompt,
        reading.frames,
    )
    expect_learnable(spec, prepared)
    return prepared


def open_processor(folder: Path) -> Processor:
    """A checkpoint's processor, without its weights. Raises `InvalidInput` where the folder is no whole Qwen3-VL."""
    check_checkpoint(folder)
    try:
        processor = Qwen3VLProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, LookupError, TypeError, AttributeError, OSError, ImportError) as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise refused(folder.name, f"its processor cannot be read: {first}", "copy the checkpoint again") from damage
    return processor


def expect_learnable(spec: LearningSpec, prepared: Prepared) -> None:
    """Raise `InvalidInput` where the policy, or what is to be measured, does not allow to learn it."""
    learned, held_out, unusable = len(prepared.learned), len(prepared.held_out), prepared.unusable
    count = learned + held_out + len(unusable)
    first = [Complaint(each.sample, each.message) for each in unusable[:_NAMED]]
    if unusable and spec.policy == "refuse":
        what = f"{len(unusable)} of {count} samples cannot be learned"
        raise InvalidInput(f"{what}; correct them, or choose the policy quarantine to leave them out", first)
    if not learned:
        what = "no sample can be learned" if unusable else "there are no samples"
        raise InvalidInput(f"The dataset cannot be learned: {what}", first)
    if spec.measures and not held_out:
        what = f"no sample is held out as {spec.held_out!r}, and something is to be measured on such samples"
        fix = "name a split that the dataset has, convert it with `hold_out`, or measure nothing"
        raise InvalidInput("Nothing is held out", [Complaint("/spec/held_out", what, fix)])


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
    frames: Frames = field(default_factory=Frames)
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
        base, said = data_set.file.parent, [self._said(data_set, row) for row in some]
        paths = (path for each in said if isinstance(each, Conversation) for path in each.pictures)
        pictures = self.pictures.measure_all(paths, base)
        read = [each if isinstance(each, Unlearnable) else self._guarded(each, pictures) for each in said]
        tokens = self.encoder.tokenise([each.rendered for each in read if isinstance(each, _Ready)])
        for row, each in zip(some, read, strict=True):
            reason = self._add(row.number, each, next(tokens), growing) if isinstance(each, _Ready) else each
            if isinstance(reason, Unlearnable):
                self.unusable.append(Unusable(f"{data_set.name}: sample {row.number}", reason.code, reason.message))

    def _said(self, data_set: DataSet, row: Row) -> Conversation | Unlearnable:
        try:
            return read_conversation(row.said, data_set.columns, self.spec.system)
        except Unlearnable as reason:
            return reason

    def _guarded(
        self, conversation: Conversation, measured: Mapping[str, Measured | Unlearnable]
    ) -> _Ready | Unlearnable:
        pictures = []
        for path in conversation.pictures:
            picture = measured[path]
            if isinstance(picture, Unlearnable):
                return picture
            pictures.append(picture)
        try:
            return self._ready(conversation, pictures)
        except Unlearnable as reason:
            return reason

    def _ready(self, conversation: Conversation, pictures: Sequence[Measured]) -> _Ready:
        conversation = filled(conversation, [picture.size for picture in pictures])
        expect_form(conversation, self.spec.answers)
        if len(pictures) == 1:  # of several, boxes do not say which one they are in
            for turn in conversation.turns:
                if turn.role == "assistant":
                    self.frames.see(turn.words, pictures[0].size)
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
