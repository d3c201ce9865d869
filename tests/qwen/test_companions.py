from hypothesis import given
from hypothesis import strategies as st

from workers.qwen.companions import Room, Size, choose

ROOM = Room(tokens=1_000, rows=4)
SIZES = st.lists(st.builds(Size, st.integers(1, 2_000), st.integers(1, 500)), max_size=12)


def test_all_go_together_where_there_is_room() -> None:
    assert choose([Size(100, 50), Size(90, 60), Size(120, 10)], [], ROOM) == [0, 1, 2]


def test_there_are_never_more_rows_than_fit() -> None:
    assert choose([Size(10, 10)] * 9, [], ROOM) == [0, 1, 2, 3]
    assert choose([Size(10, 10)] * 9, [Size(10, 10)] * 3, ROOM) == [0]


def test_padding_counts() -> None:
    # Together each of the two would take 400 + 200 tokens.
    assert choose([Size(400, 10), Size(10, 200)], [], ROOM) == [0]
    assert choose([Size(400, 10), Size(10, 90)], [], ROOM) == [0, 1]


def test_the_companions_of_the_oldest_are_those_of_its_size() -> None:
    waiting = [Size(300, 30), Size(10, 10), Size(290, 30), Size(12, 10), Size(300, 20)]

    assert choose(waiting, [], ROOM) == [0, 2, 4]


def test_one_that_is_larger_than_any_batch_runs_alone() -> None:
    assert choose([Size(5_000, 100), Size(10, 10)], [], ROOM) == [0]


def test_nobody_overtakes_the_oldest_while_others_run() -> None:
    running = [Size(200, 50)]

    assert choose([Size(450, 51), Size(10, 10)], running, ROOM) == []
    assert choose([Size(10, 10), Size(450, 51)], running, ROOM) == [0]


@given(SIZES, SIZES, st.integers(1, 3_000), st.integers(1, 6))
def test_a_batch_never_takes_more_than_there_is_room_for(
    waiting: list[Size], running: list[Size], tokens: int, rows: int
) -> None:
    chosen = choose(waiting, running, Room(tokens, rows))

    together = [*running, *(waiting[at] for at in chosen)]
    assert chosen == sorted(set(chosen))
    assert not chosen or chosen[0] == 0
    assert chosen or running or not waiting  # whoever waits goes on in the end
    if chosen and len(together) > 1:
        assert len(together) <= rows
        longest = max(size.reads for size in together) + max(size.speaks for size in together)
        assert len(together) * longest <= tokens
