"""Who joins a batch takes the places of rows that have ended, and nobody notices."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.qwen.test_engine import SHARED, begin, follow, make_row, nothing, requests
from workers.qwen.batch import Batch, Row, rope_positions
from workers.qwen.features import FeatureCache
from workers.qwen.inputs import encode
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Request
from workers.qwen.sampling import Sampling, seeded
from workers.qwen.shift import Company
from workers.qwen.ticket import Ticket


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_rows_that_take_the_seats_of_others_change_nothing_for_those_who_stay(demo: LoadedModel) -> None:
    alone = [follow(begin(demo, [make_row(demo, request)]), 20) for request in requests()]
    rows = [make_row(demo, request) for request in requests()]

    batch = begin(demo, [rows[2], make_row(demo, requests()[0]), make_row(demo, requests()[2])])
    follow(batch, 5)
    late = begin(demo, [rows[1], rows[3]])
    follow(late, 1)
    batch.seat([2, 1], late)
    follow(batch, 4)
    assert batch.rows == [rows[2], rows[3], rows[1]]
    assert batch.unused([1, 2]) == 4 + len(rows[2].encoded.ids) - len(rows[1].encoded.ids)
    batch.keep([1, 2])  # the longest leaves, and with it the places that only it and those before have used
    [(scores, _)] = follow(batch, 1)

    for at, row in enumerate([3, 1]):
        torch.testing.assert_close(scores[at], alone[row][5][0][0], atol=1e-4, rtol=0)
    assert batch.length == 5 + len(rows[1].encoded.ids)


def test_who_takes_a_seat_does_not_inherit_what_is_no_number(demo: LoadedModel) -> None:
    rows = [make_row(demo, request) for request in requests()]
    alone = follow(begin(demo, [make_row(demo, requests()[3])]), 2)
    batch = begin(demo, [rows[2], rows[0]])
    follow(batch, 1)
    for layer in batch._layers:
        layer.keys[1], layer.values[1] = torch.nan, torch.nan

    late = begin(demo, [rows[3]])
    follow(late, 1)
    batch.seat([1], late)
    [(scores, [_, token])] = follow(batch, 1)

    torch.testing.assert_close(scores[1], alone[1][0][0], atol=1e-4, rtol=0)
    assert [token] == alone[1][1]


def test_who_joins_takes_the_seat_of_a_row_that_has_ended(demo: LoadedModel) -> None:
    way = Sampling(max_new_tokens=12, temperature=1.3, top_k=30, seed=5, repetition_penalty=1.4, frequency_penalty=0.3)

    def company(*rows: tuple[Request, int]) -> Company:
        tickets = [_ticket(demo, request, limit) for request, limit in rows]
        batch = Batch(demo, [ticket.row for ticket in tickets], FeatureCache(0), SHARED)
        return Company(batch, tickets, frozenset())

    def newcomer() -> Company:
        return company((replace(requests()[3], sampling=way, scored=True), 12))

    alone = newcomer()
    [said] = alone.tickets
    for _ in range(12):
        alone.step()

    running = company((requests()[0], 3), (requests()[2], 100))
    for _ in range(4):
        running.step()
    late = newcomer()
    [seated] = late.tickets
    late.step()
    running.join(late)
    assert running.tickets[0] is seated
    assert running.rows == len(running.tickets) == 2
    for _ in range(11):
        running.step()

    assert seated.row.spoken[:12] == said.row.spoken
    torch.testing.assert_close(torch.tensor(seated.row.logprobs[:12]), torch.tensor(said.row.logprobs))


def _ticket(demo: LoadedModel, request: Request, limit: int) -> Ticket:
    encoded = encode(demo.processor, request)
    generator = seeded(request.sampling, SHARED.device)
    row = Row(encoded, rope_positions(demo, encoded), request.sampling, generator, scored=request.scored)
    return Ticket(row, limit, nothing, None, listened=False, expected=lambda _: limit)
