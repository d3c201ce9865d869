"""Rows that a model answers together, one token of each at a time. It knows no threads, and not why a row ends.

B rows, a cache of L places, V tokens in the vocabulary, width H. Rows are padded on the left, so that the next token of
all of them is at the right. Nothing is kept in the model itself: positions are counted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.nn.functional import pad

from workers.qwen.cache import RoomyLayer, roomy_cache
from workers.qwen.features import FeatureCache, Features, look
from workers.qwen.inputs import Encoded
from workers.qwen.loading import SDPA, LoadedModel
from workers.qwen.sampling import Choice, Sampling, Voice

_ROOM = 128  # places that masks are made longer by at a time


@dataclass
class Row:
    """One question and its answer so far, which is read again where a batch has to begin anew. T tokens."""

    encoded: Encoded
    positions: torch.Tensor  # (3, T): moment, row and column, as M-RoPE counts them
    sampling: Sampling
    generator: torch.Generator | None
    pixels: dict[bytes, torch.Tensor] = field(default_factory=dict)  # patches of pictures nobody has looked at
    spoken: list[int] = field(default_factory=list)
    scored: bool = False  # whether to keep how likely each of them was:
    logprobs: list[float] = field(default_factory=list)  # under the model's own softmax, before anything is ruled out
    reused_pictures: int | None = None  # whose features were kept from an earlier question; None: not yet looked

    @property
    def length(self) -> int:
        """Tokens of question and answer."""
        return len(self.encoded.ids) + len(self.spoken)

    @cached_property
    def next_position(self) -> int:
        """Of the answer's first token."""
        return int(self.positions.max()) + 1

    def ids(self) -> torch.Tensor:
        """Question and answer, (T + spoken,)."""
        return torch.cat([self.encoded.ids, torch.tensor(self.spoken, dtype=torch.long)])

    def places(self) -> torch.Tensor:
        """The positions of question and answer, (3, T + spoken)."""
        spoken = torch.arange(len(self.spoken)) + self.next_position
        return torch.cat([self.positions, spoken.expand(3, -1)], dim=1)


def text_device(loaded: LoadedModel) -> torch.device:
    """Where the language model begins; a model that is spread over cards may have its eyes on another one."""
    device: torch.device = loaded.model.model.language_model.embed_tokens.weight.device
    return device


def rope_positions(loaded: LoadedModel, encoded: Encoded) -> torch.Tensor:
    """The question's positions, (3, T)."""
    pictured = (encoded.ids == loaded.processor.image_token_id).int()
    positions, _ = loaded.model.model.get_rope_index(encoded.ids[None], pictured[None], image_grid_thw=encoded.grids)
    found: torch.Tensor = positions[:, 0]
    return found


class Batch:
    """Rows that go on together: each `step` gives all of them one more token."""

    def __init__(
        self, loaded: LoadedModel, rows: Sequence[Row], features: FeatureCache, shared: torch.Generator
    ) -> None:
        """Read the questions. `shared` is what rows without a seed draw from, on the `text_device`."""
        self.rows = list(rows)
        self._loaded, self._shared, self._device = loaded, shared, shared.device
        texts = loaded.model.config.text_config
        self._vocabulary = texts.vocab_size
        self._cache = roomy_cache(texts.num_hidden_layers)
        self._layers: list[RoomyLayer] = self._cache.layers  # type: ignore[assignment]
        self.length = max(row.length for row in rows)  # L
        self._use(torch.stack([_left(torch.ones(row.length, dtype=torch.bool), self.length) for row in rows]))
        self._next = torch.tensor([row.next_position + len(row.spoken) for row in rows], device=self._device)
        self._last: torch.Tensor | None = None  # the tokens that were chosen last, (B,)
        self.scores = self._read(features)  # that tokens are chosen from, (B, V)
        self._choice = self._make_choice()

    def step(self) -> list[int | None]:
        """One more token of each row; None where its scores are no numbers."""
        if self._last is not None:
            self.scores = self._go_on(self._last)
        self._last, best = self._choice.next(self.scores)
        # One transfer from the device: what is no number is told by a token that there is not.
        tokens = torch.where(best.isfinite(), self._last, -1).tolist()
        if any(row.scored for row in self.rows):
            self._keep_logprobs(self._last)
        for row, token in zip(self.rows, tokens, strict=True):
            row.spoken += [token] if token >= 0 else []
        return [None if token < 0 else token for token in tokens]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone. All have had a token."""
        assert self._last is not None
        chosen, start = torch.tensor(rows, device=self._device), self.unused(rows)
        for layer in self._layers:
            layer.keep(chosen, start)
        self._use(self._used.index_select(0, chosen)[:, start : self.length])
        self.length -= start
        self._next, self._last = self._next[chosen], self._last[chosen]
        self.rows = [self.rows[row] for row in rows]
        self._choice = self._make_choice()

    def unused(self, rows: Sequence[int]) -> int:
        """How many places, from the first one on, none of these rows uses."""
        used = self._used.index_select(0, torch.tensor(rows, device=self._device))
        return int(used.any(dim=0).int().argmax())

    def seat(self, rows: Sequence[int], other: "Batch") -> None:
        """Put another batch's rows, which is used up, in the places of these. All have had a token.

        No row of it may be longer than this batch.
        """
        assert self._last is not None
        assert other._last is not None
        seats = torch.tensor(rows, device=self._device)
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.seat(seats, theirs)
        newcomers = _left(other._used[:, : other.length], self.length)
        self._use(self._used[:, : self.length].index_copy(0, seats, newcomers))
        self._next = self._next.index_copy(0, seats, other._next)
        self._last = self._last.index_copy(0, seats, other._last)
        for seat, row in zip(rows, other.rows, strict=True):
            self.rows[seat] = row
        self._choice = self._make_choice()

    def join(self, other: "Batch") -> None:
        """Go on together with another batch, which is used up. All rows of both have had a token."""
        assert self._last is not None
        assert other._last is not None
        length = max(self.length, other.length)
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.join(theirs, length)
        self._use(torch.cat([_left(batch._used[:, : batch.length], length) for batch in (self, other)]))
        self.length = length
        self._next = torch.cat([self._next, other._next])
        self._last = torch.cat([self._last, other._last])
        self.rows += other.rows
        self._choice = self._make_choice()

    def _keep_logprobs(self, chosen: torch.Tensor) -> None:
        """Of these tokens, (B,), in the rows that are to have them."""
        told = self.scores.gather(-1, chosen[:, None]).squeeze(-1) - self.scores.logsumexp(dim=-1)
        for row, logprob in zip(self.rows, told.tolist(), strict=True):
            row.logprobs += [logprob] if row.scored else []

    def _read(self, features: FeatureCache) -> torch.Tensor:
        """The scores of every row's next token, (B, V)."""
        device, model = self._device, self._loaded.model.model.language_model
        ids = torch.stack([_left(row.ids(), self.length) for row in self.rows]).to(device)  # (B, L)
        embeddings = model.embed_tokens(ids)  # (B, L, H)
        pictured = torch.stack([self._pictured(row) for row in self.rows]).to(device)  # (B, L)
        seen = self._look(features)
        if seen:
            embeddings[pictured] = torch.cat([each.embeddings for each in seen]).to(embeddings)
        hidden = model(
            inputs_embeds=embeddings,
            position_ids=torch.stack([_left(row.places(), self.length) for row in self.rows], dim=1).to(device),
            attention_mask=self._used[:, : self.length] if self._padded else None,
            past_key_values=self._cache,
            use_cache=True,
            visual_pos_masks=pictured if seen else None,
            deepstack_visual_embeds=[torch.cat(layer) for layer in zip(*(each.deepstack for each in seen), strict=True)]
            if seen
            else None,
        ).last_hidden_state
        return self._score(hidden)

    def _go_on(self, tokens: torch.Tensor) -> torch.Tensor:
        """The scores of the tokens after these, (B, V)."""
        self.length += 1
        if self.length > self._used.shape[1]:
            self._use(self._used)
        hidden = self._loaded.model.model.language_model(
            input_ids=tokens[:, None],
            position_ids=self._next[:, None].expand(3, -1, -1),
            attention_mask=self._mask(),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._next = self._next + 1
        return self._score(hidden)

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last places' scores in fp32, (B, V)."""
        scores: torch.Tensor = self._loaded.model.lm_head(hidden[:, -1])
        return scores.to(self._device, torch.float32)

    def _look(self, features: FeatureCache) -> list[Features]:
        pictures = [shown for row in self.rows for shown in row.encoded.shown]
        pixels = {key: patches for row in self.rows for key, patches in row.pixels.items()}
        found, kept = look(self._loaded, pictures, features, pixels)
        for row in self.rows:
            row.pixels.clear()
            if row.reused_pictures is None:
                row.reused_pictures = sum(shown.key in kept for shown in row.encoded.shown)
        return [found[shown.key] for shown in pictures]

    def _pictured(self, row: Row) -> torch.Tensor:
        """Where its pictures are, (L,)."""
        asked = row.encoded.ids == self._loaded.processor.image_token_id
        return _left(pad(asked, (0, len(row.spoken))), self.length)

    def _use(self, used: torch.Tensor) -> None:
        """These places of the cache hold tokens of the rows, (B, places), and so do all that come after."""
        self._used = pad(used, (0, _ROOM), value=True).to(self._device)
        self._padded = not bool(self._used.all())
        # What attention adds to its weights, made once and not at every token, (B, 1, 1, places).
        bias = torch.zeros(self._used.shape, dtype=self._loaded.dtype, device=self._device)
        self._bias = bias.masked_fill_(~self._used, -torch.inf)[:, None, None]

    def _mask(self) -> torch.Tensor | None:
        """The attention mask for one more token; None where every row uses every place."""
        if not self._padded:
            return None
        whole = self._bias if self._loaded.attention == SDPA else self._used
        return whole[..., : self.length]

    def _make_choice(self) -> Choice:
        voices = [Voice(row.sampling, row.generator, row.encoded.ids, row.spoken) for row in self.rows]
        return Choice(voices, self._shared, self._vocabulary)


def _left(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Padded on the left with 0."""
    return pad(tensor, (length - tensor.shape[-1], 0))
