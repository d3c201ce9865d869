"""How long an attempt will still take, told from how far it was when."""

import pytest

from workers.progress import Pace


@pytest.mark.parametrize(
    ("told", "eta"),
    [
        pytest.param([(0, 0.0)], None, id="one moment tells no speed"),
        pytest.param([(0, 0.0), (0.9, 0.5)], None, id="nor does less than a second"),
        pytest.param([(0, 0.0), (10, 0.1)], 90, id="a tenth in ten seconds leaves ninety"),
        pytest.param([(0, 0.5), (10, 0.6)], 40, id="what was done before the first moment took no time"),
        pytest.param([(0, 0.0), (10, 1.0)], 0, id="what is done leaves none"),
        pytest.param([(0, 0.2), (10, 0.2)], None, id="what stands still has no end"),
        pytest.param([(0, 0.2), (10, None)], None, id="an unknown fraction has none either"),
        pytest.param([(0, 0.0), (10, 0.1), (11, None), (20, 0.2)], 80, id="and does not disturb those around it"),
        pytest.param([(0, 0.0), (10, 0.9), (20, 0.1), (30, 0.2)], 80, id="a fraction that falls begins anew"),
        pytest.param([(0, 0.0), (1000, 0.1), (1050, 0.2), (1100, 0.3)], 350, id="old slowness is forgotten"),
        pytest.param([(0, 0.1), (0.1, 0.11), (0.2, 0.12), (2.2, 0.2)], 18, id="moments close together count as one"),
    ],
)
def test_the_rest_takes_as_long_as_the_last_minute_says(
    told: list[tuple[float, float | None]], eta: float | None
) -> None:
    pace = Pace()
    assert [pace.eta(fraction, now) for now, fraction in told][-1] == eta


def test_a_handler_that_tells_without_pause_is_remembered_briefly() -> None:
    pace = Pace()
    for step in range(100_000):
        pace.eta(step / 100_000, step / 100)
    assert len(pace._reached) < 200
