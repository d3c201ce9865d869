"""What a model is asked: turns of words and pictures, how it chooses, and how closely it looks."""

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from workers.qwen.sampling import Sampling


@dataclass(frozen=True)
class Shown:
    """A picture, no larger than the model sees it."""

    picture: Image.Image
    size: tuple[int, int]  # the smallest and the largest area that it may be brought to, in pixels
    grid: tuple[int, int, int]  # patches of 16 × 16: moments (1), rows, columns
    tokens: int
    key: bytes  # equal for equal pixels at an equal size


@dataclass(frozen=True)
class Turn:
    """What one side said. Pictures are upright RGB ones, or shown already."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Image.Image | Shown, ...]


@dataclass(frozen=True)
class Budget:
    """The area that every picture is brought into, in pixels; None: the checkpoint's own."""

    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class Request:
    """One question with all that was said before it."""

    turns: tuple[Turn, ...]
    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget = field(default_factory=Budget)
    scored: bool = False  # how likely the model thought each token of the answer is to be told
    alike: str = ""  # questions with the same one have answers of about the same length
    system: str | None = None  # the model's own first words, for when no turn is the system's
