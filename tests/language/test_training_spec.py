"""What can be learned, and what cannot; and the jobs that `vlyard train` makes of one command line."""

from contextlib import nullcontext
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from vlyard.cli.train import entries, expect_held_out
from vlyard.errors import InvalidInput
from vlyard.jobs.conversion import ConversionSpec
from vlyard.jobs.evaluation import EvaluationSpec
from vlyard.jobs.spec import Reference
from vlyard.jobs.training import TrainingSpec
from vlyard.jobs.training_check import TrainingCheckSpec

DATASET, MODEL, SURVEY = UUID(int=1), UUID(int=2), UUID(int=3)


def learn(**fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"dataset": DATASET, **fields})


# --- specifications -------------------------------------------------------------------------------------------


def test_a_training_reads_its_dataset_its_base_and_waits_for_its_check() -> None:
    spec = learn(model=MODEL, checked=SURVEY)
    assert spec.inputs() == (DATASET, MODEL, SURVEY)
    assert spec.trees() == (DATASET, MODEL)  # the survey is a file
    assert learn(model="demo").inputs() == (DATASET,)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"held_out": "train"}, "held out: choose"),
        ({"held_out": None, "stop_after": 2}, "stop_after needs held_out"),
        ({"held_out": None, "evaluate": "end"}, "evaluate needs held_out"),
        ({"stop_after": 2, "stop_on": "f1", "evaluate": "end"}, "stop_on f1 needs evaluate: checkpoint"),
        ({"stop_after": 2, "stop_on": "f1", "evaluate": "checkpoint", "answers": "points"}, "compares boxes"),
        ({"schedule": "greedy", "held_out": None}, "greedy needs held_out"),
        ({"method": "qlora", "gpus": 2, "sharding": "fsdp"}, "choose ddp"),
        ({"method": "full", "dora": True}, "choose method lora"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels is larger"),
        ({"parts": []}, "at least 1 item"),
        ({"precision": "int8"}, "pure_bf16"),
    ],
)
def test_what_does_not_go_together_is_refused_and_says_why(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        learn(**fields)


def test_all_weights_learn_more_slowly_than_an_adapter_unless_told_otherwise() -> None:
    assert learn(method="lora").highest_rate == 1e-4
    assert learn(method="full").highest_rate == 1e-5
    assert learn(method="full", learning_rate=2e-3).highest_rate == 2e-3


def test_given_answers_are_measured_without_a_model() -> None:
    spec = EvaluationSpec(dataset=DATASET, predictions=SURVEY, model=MODEL)
    assert spec.inputs() == (DATASET, SURVEY)
    assert spec.trees() == (DATASET,)
    with pytest.raises(ValidationError, match="answers already"):
        EvaluationSpec(dataset=DATASET, predictions=SURVEY, prompt="What?")


# --- the command ----------------------------------------------------------------------------------------------


def command(**options: Any) -> dict[str, Any]:
    return {"data": "here", "base": "demo", "hold_out": None, "pool": "default", **options}


def test_one_command_line_is_four_jobs_that_feed_each_other() -> None:
    source = uuid4()
    jobs = entries(command(name="street", max_pixels=5_000, pool="night"), source, converted=False)
    convert, check, train, evaluate = (job.spec for job in jobs)
    assert [job.name for job in jobs] == ["convert", "check", "train", "evaluate"]
    assert {job.pool for job in jobs} == {"night"}
    assert isinstance(convert, ConversionSpec)
    assert (convert.source, convert.hold_out) == (source, 0.1)
    assert isinstance(check, TrainingCheckSpec)
    assert isinstance(train, TrainingSpec)
    assert check.dataset == train.dataset == Reference("ref:convert/dataset")
    assert check.max_pixels == train.max_pixels == 5_000
    assert check.policy == train.policy == "refuse"
    assert check.evaluate == "end"  # it fails where nothing would be held out, which the evaluation asks about
    assert train.checked == Reference("ref:check/survey")
    assert train.name == "street"
    assert isinstance(evaluate, EvaluationSpec)
    assert (evaluate.model, evaluate.splits) == (Reference("ref:train/model"), ("val",))


def test_data_that_was_converted_is_not_converted_again() -> None:
    source = uuid4()
    check, train, evaluate = entries(command(held_out="test", base="untrained"), source, converted=True)
    assert check.spec.inputs() == (source,)
    assert isinstance(train.spec, TrainingSpec)
    assert (train.spec.model, train.spec.held_out) == ("untrained", "test")
    assert isinstance(evaluate.spec, EvaluationSpec)
    assert (evaluate.spec.dataset, evaluate.spec.splits) == (source, ("test",))


@pytest.mark.parametrize(
    ("options", "splits", "said"),
    [
        ({}, ["train"], "--held-out: .* 'val' .*: it has train .*--hold-out 0.1"),
        ({}, ["train", "test"], "it has train, test .*say --held-out test"),
        ({}, ["train", "val"], None),
        ({"held_out": ""}, ["train"], None),  # somebody who wants nothing held out
        ({}, None, None),  # labels: what their splits are, the conversion finds out
    ],
)
def test_converted_data_without_the_split_to_be_measured_on_is_refused_before_it_is_uploaded(
    options: dict[str, Any], splits: list[str] | None, said: str | None
) -> None:
    wanted = entries(command(**options), uuid4(), converted=splits is not None)
    refusal = nullcontext() if said is None else pytest.raises(InvalidInput, match=said)

    with refusal:
        expect_held_out(wanted, splits)


def test_options_that_do_not_fit_are_refused_by_their_names() -> None:
    with pytest.raises(InvalidInput, match="--lora-rank"):
        entries(command(lora_rank=0), uuid4(), converted=False)
    with pytest.raises(InvalidInput, match="--hold-out"):
        entries(command(hold_out=1.5), uuid4(), converted=False)


def test_a_share_to_hold_out_is_the_conversions_and_is_refused_where_there_is_none() -> None:
    convert = entries(command(hold_out=0.3), uuid4(), converted=False)[0].spec

    assert isinstance(convert, ConversionSpec)
    assert convert.hold_out == 0.3
    with pytest.raises(InvalidInput, match="--hold-out: the dataset is converted already"):
        entries(command(hold_out=0.3), uuid4(), converted=True)
