"""`vlyard worker` refuses what it could never do before it reaches any server."""

import pytest

from vlyard.errors import InvalidInput
from vlyard.jobs.kinds import Device
from vlyard.jobs.view import Submission
from workers.commands import worker


@pytest.mark.parametrize("pool", ["Night Pool", "", "-night", "night\n", "n" * 64, "../night"])
def test_a_pool_that_no_job_can_name_is_refused(pool: str) -> None:
    with pytest.raises(ValueError, match="pool"):
        Submission.model_validate({"spec": {"kind": "noop"}, "pool": pool})

    with pytest.raises(InvalidInput, match=r"--pool: no job can name a pool .* small letters"):
        worker(Device.CPU, pool=pool)


def test_a_kind_of_the_other_device_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--kinds: training is not a kind of the cpu"):
        worker(Device.CPU, kinds="conversion, training")
