from collections.abc import Sequence

import pytest
import torch

from vlyard.errors import InvalidInput, OutOfMemory, VLyardError
from workers.qwen.placement import Card, Placement, memory_for_models, place

GIB = 2**30


def box(*free: int, total: int = 100) -> list[Card]:
    """Cards of 100 GiB with so many free; 85 of them are for weights."""
    return [Card(index, each * GIB, total * GIB) for index, each in enumerate(free)]


# fmt: off
PLACED = [
    (500, [],                 1, Placement()),  # the CPU, however large
    (500, [],                 4, Placement()),
    (  5, box(100),           1, Placement((0,))),
    ( 85, box(100),           1, Placement((0,))),
    (  5, box(40, 100, 70),   1, Placement((1,))),  # the emptiest
    (  5, box(70, 70),        1, Placement((0,))),
    (150, box(100, 100),      2, Placement((0, 1), 85 * GIB)),
    (150, box(90, 20, 100),   2, Placement((0, 2), int(76.5 * GIB))),  # the emptiest two, and no other
    (  1, box(100, 100),      2, Placement((0, 1), 85 * GIB)),  # who asks for two has two
]
REFUSED = [
    ( 86, box(100),           1, InvalidInput, "needs 86.0 GiB and one card has 85.0 GiB for it (this worker's 1"),
    ( 86, box(100, 100),      1, InvalidInput, "needs 86.0 GiB and one card has 85.0 GiB for it (declare gpus: 2)"),
    ( 86, box(10, 10, 10),    1, InvalidInput, "(declare gpus: 2)"),  # what is free now may be more tomorrow
    (200, box(*[100] * 4),    2, InvalidInput, "2 cards have 170.0 GiB for it (declare gpus: 3)"),
    (900, box(*[100] * 4),    4, InvalidInput, "this worker's 4 are too few"),
    (  1, box(100, 100),      3, InvalidInput, "sees 2 GPUs, the job asks for 3 (ask for 2 at most, or in a pool"),
    ( 80, box(50),            1, OutOfMemory,  "needs 80.0 GiB, and 42.5 GiB are free for it on the card"),
    (160, box(100, 50),       2, OutOfMemory,  "85.0 GiB are free for it on 2 cards"),
]
# fmt: on


@pytest.mark.parametrize(("gib", "cards", "gpus", "expected"), PLACED)
def test_a_model_goes_where_there_is_most_room(gib: int, cards: Sequence[Card], gpus: int, expected: Placement) -> None:
    assert place(gib * GIB, cards, gpus) == expected


@pytest.mark.parametrize(("gib", "cards", "gpus", "error", "said"), REFUSED)
def test_a_model_that_does_not_fit_is_refused_with_what_to_ask_for(
    gib: int, cards: Sequence[Card], gpus: int, error: type[VLyardError], said: str
) -> None:
    with pytest.raises(error) as refusal:
        place(gib * GIB, cards, gpus)

    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("placement", "device_map", "max_memory"),
    [
        (Placement(), {"": "cpu"}, None),
        (Placement((3,)), {"": 3}, None),
        (Placement((0, 2), 7), "auto", {0: 7, 2: 7, "cpu": 0}),
    ],
)
def test_a_model_is_spread_over_the_chosen_cards_and_nothing_else(
    placement: Placement, device_map: object, max_memory: object
) -> None:
    assert (placement.device_map, placement.max_memory) == (device_map, max_memory)


def test_models_are_kept_in_a_part_of_the_memory_that_there_is() -> None:
    there_is = sum(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())) or 2**44

    assert GIB < memory_for_models() < there_is
