"""What a specification says of sampling is what the sampler is told."""

from dataclasses import fields
from typing import Any
from uuid import UUID

from vlyard.jobs.inference import InferenceSpec
from workers.asking import sampling_of
from workers.qwen.sampling import Sampling


def test_every_field_of_sampling_reaches_the_sampler_under_its_own_name() -> None:
    asked: dict[str, Any] = {
        "max_new_tokens": 77,
        "do_sample": False,
        "temperature": 0.31,
        "top_p": 0.62,
        "top_k": 9,
        "repetition_penalty": 1.11,
        "presence_penalty": 1.53,
        "frequency_penalty": -0.24,
        "stop": ("one", "two"),
        "seed": 5,
    }
    assert asked.keys() == {field.name for field in fields(Sampling)}

    assert sampling_of(InferenceSpec(image=UUID(int=1), prompt="What?", **asked)) == Sampling(**asked)
