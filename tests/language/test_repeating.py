"""A job said again as a command line, as YAML and as a program is the same job, whatever is in it."""

import ast
import json
import shlex
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import vlyard
from tests.language.small_api import KEY, SmallApi, serving
from tests.language.test_cli import environment, run
from vlyard.cli.app import build
from vlyard.cli.kinds import submission
from vlyard.cli.reading import read_submission
from vlyard.errors import InvalidInput
from vlyard.jobs.kinds import KINDS, Kind
from vlyard.jobs.ours import fields_set_by_us
from vlyard.jobs.repeating import Form, can_be_emptied, repeated
from vlyard.jobs.spec import Spec
from vlyard.jobs.training import TrainingSpec
from vlyard.jobs.view import Job, Submission

COMMANDS = typer.main.get_command(build(["jobs"])).commands  # type: ignore[attr-defined]  # a group's; typer hides it
AN_ID = "0198c0de-0000-7000-8000-000000000000"
TOMORROW = datetime.now(UTC) + timedelta(days=1)
EXAMPLES: list[dict[str, Any]] = [
    {"kind": "noop"},
    {"kind": "noop", "seconds": 1.5, "crash": True, "echo": "-a 'b' \"c\" $d\ne", "fail_transiently": 2},
    {"kind": "inference", "image": AN_ID, "prompt": "Why?", "annotate": False, "stop": ["-", "a=b"], "seed": 0},
    {"kind": "inference", "images": [AN_ID, str(UUID(int=7))], "preset": "describe", "language": "zh"},
    {
        "kind": "inference",
        "image": AN_ID,
        "prompt": "x" * 99,
        "model": f"job:{AN_ID}/checkpoint",
        "adapter": AN_ID,
        "gpus": 2,
    },
    {
        "kind": "inference",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "image": AN_ID}, {"type": "text", "text": "What's this?"}]},
            {"role": "assistant", "content": 'A "cat".'},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"artefact:{AN_ID}"}}]},
        ],
    },
    {"kind": "prediction", "dataset": AN_ID, "splits": ["val"], "shards": 4, "shard": 0, "do_sample": False},
    {"kind": "conversion", "source": AN_ID, "classes": [7, "7", "car", '"quoted"', "true"], "rename": {"a=b": "c=d"}},
    {"kind": "conversion", "source": AN_ID, "split": {"train": 0.9, "val": 0.1}, "negatives": 0, "labels": "a/b"},
    {"kind": "conversion", "source": AN_ID, "max_answer_tokens": 64, "tokenizer": AN_ID, "kpt_shape": "17x3"},
    {"kind": "training_check", "dataset": AN_ID, "splits": [], "held_out": None},
    {"kind": "training", "dataset": AN_ID, "splits": [], "held_out": None, "parts": ["merger", "vision"]},
    {"kind": "training", "dataset": AN_ID, "held_out": "test", "evaluate": "checkpoint", "stop_after": 2},
    {"kind": "evaluation", "dataset": AN_ID, "predictions": f"job:{AN_ID}/predictions", "aliases": {"a=b": "c"}},
    {"kind": "evaluation", "dataset": AN_ID, "prompt": "Where?"},
    {"kind": "export", "model": "vision/street@prod", "push_to": "huggingface", "repository": "a/b"},
    {"kind": "verification", "export": f"job:{AN_ID}/model", "model": "hub:a/b@main"},
    {"kind": "import", "source": "hub:a/b", "hub": "modelscope", "name": "b"},
    *(
        {**asked, **filled}
        for asked in (
            {"kind": "inference", "image": AN_ID},
            {"kind": "prediction", "dataset": AN_ID},
            {"kind": "evaluation", "dataset": AN_ID},
        )
        for filled in (
            {"preset": "ground", "classes": ["car", "7"]},
            {"preset": "key_information", "keys": ["total"]},
            {"preset": "refer", "description": "the red one"},
        )
    ),
]
PLAIN: dict[str, tuple[Any, ...]] = {  # values to try of each of JSON's types
    "boolean": (True, False),
    "integer": (0, 3, 10**6),
    "number": (0, 0.3, 1e-5),
    "string": ("-a 'b\"", "7", "a", "", AN_ID, "hub:a/b", f"job:{AN_ID}/model"),
    "null": (None,),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)
WHOLE = st.integers(-(2**63), 2**63 - 1)
WORDS = st.lists(TEXT, max_size=3)
HOW = st.fixed_dictionaries(
    {},
    optional={
        "pool": st.text(string.ascii_lowercase, min_size=1, max_size=9),
        "priority": st.integers(-100, 100),
        "labels": st.dictionaries(TEXT.filter(lambda key: ":" not in key), TEXT, max_size=3),
        "max_runtime": st.floats(0.5, 1e6),
        "expires_at": st.integers(1, 10**12).map(lambda more: TOMORROW + timedelta(microseconds=more)),
    },
)
SPECS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("noop"), "echo": TEXT, "seconds": st.floats(0, 9), "crash": st.booleans()}),
    st.fixed_dictionaries({
        "kind": st.just("inference"),
        "image": st.uuids().map(str),
        "prompt": TEXT,
        "stop": WORDS,
        "top_p": st.floats(0.1, 1),
    }),
    st.fixed_dictionaries({
        "kind": st.just("inference"),
        "messages": TEXT.map(lambda text: [{"role": "user", "content": text}]),
    }),
    st.fixed_dictionaries({"kind": st.just("prediction"), "dataset": st.uuids().map(str), "splits": WORDS}),
    st.fixed_dictionaries({
        "kind": st.just("conversion"),
        "source": st.just(AN_ID),
        "classes": st.lists(st.one_of(WHOLE, TEXT, WHOLE.map(str)), max_size=4),
        "rename": st.dictionaries(TEXT, TEXT, max_size=3),
        "prompts": WORDS,
    }),
)  # fmt: skip


def job_of(wanted: Submission, **more: Any) -> Job:
    """A job as a client sees it that was submitted so."""
    stored = wanted.model_dump(mode="json", exclude={"expires_in"})
    kind = KINDS[wanted.spec.kind]
    facts = {"id": uuid4(), "kind": kind.name, "state": "queued", "device": kind.device, "attempt": 0}
    return Job.model_validate_json(
        json.dumps({**stored, **facts, **more, "created_at": datetime.now(UTC)}, default=str)
    )


def from_cli(line: str) -> Submission:
    program, name, *words = shlex.split(line)
    context = COMMANDS[name].make_context(name, words)
    assert program == "vlyard"
    wanted, _ = submission(KINDS[name], context.params)
    return wanted


def from_yaml(text: str, folder: Path) -> Submission:
    (folder / "job.yaml").write_text(text, "utf-8")
    wanted, _ = read_submission(str(folder / "job.yaml"), {})
    return wanted


def from_python(text: str) -> Submission:
    """What the program submits: the arguments of its call, computed with its own imports."""
    tree = ast.parse(text)
    names: dict[str, Any] = {}
    imports: list[ast.stmt] = [line for line in tree.body if isinstance(line, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "program", "exec"), names)
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "submit"
    ]
    values = [eval(compile(ast.Expression(value), "program", "eval"), names) for value in call.args]
    how = {part.arg: eval(compile(ast.Expression(part.value), "program", "eval"), names) for part in call.keywords}
    return Submission(spec=values[0], **how)  # type: ignore[arg-type]  # by the keywords' names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml")


def says_it_again(wanted: Submission, folder: Path) -> None:
    job = job_of(wanted)
    assert from_cli(repeated(job, Form.CLI)) == wanted
    assert from_yaml(repeated(job, Form.YAML), folder) == wanted
    assert from_python(repeated(job, Form.PYTHON)) == wanted


@pytest.mark.parametrize("spec", EXAMPLES, ids=" ".join)
def test_a_job_is_said_again_in_three_ways_and_each_is_the_same_job(spec: dict[str, Any], folder: Path) -> None:
    says_it_again(Submission.model_validate({"spec": spec}), folder)
    how = {
        "pool": "night",
        "priority": -5,
        "labels": {"a=b": "-c", "{": "="},
        "max_runtime": 90,
        "expires_at": TOMORROW,
    }
    says_it_again(Submission.model_validate({"spec": spec, **how}), folder)


def values(schema: dict[str, Any]) -> Iterator[Any]:
    """Values that a field of this JSON schema may take, and some that it does not."""
    yield from schema.get("enum", PLAIN.get(schema.get("type", ""), ()) if "const" not in schema else [])
    for each in schema.get("anyOf", ()):
        yield from values(each)
    if schema.get("type") == "array":
        inner = list(values(schema["items"]))
        yield from ([], *([each] for each in inner), inner[:2])
    if schema.get("type") == "object":
        keys = values(schema.get("propertyNames", {"type": "string"}))
        yield from ({key: each} for key in keys for each in values(schema.get("additionalProperties", {})))


def varied(kind: Kind) -> Iterator[tuple[str, Spec]]:
    """The kind's examples with one field after another as it may be: the first, the last, no value; by its name."""
    schemas = kind.spec.model_json_schema()["properties"]
    examples = [each for each in EXAMPLES if each["kind"] == kind.name]
    for name in schemas.keys() - {"kind", *fields_set_by_us(kind.spec)}:
        known = [spec for value in values(schemas[name]) if (spec := first_valid(kind, examples, {name: value}))]
        empty = [spec for spec in known if getattr(spec, name) in (None, ())]
        yield from ((name, spec) for spec in {repr(spec): spec for spec in (known[:1] + known[-1:] + empty)}.values())


def first_valid(kind: Kind, examples: list[dict[str, Any]], changes: dict[str, Any]) -> Spec | None:
    for each in examples:
        with suppress(ValidationError):
            return kind.spec.model_validate({**each, **changes})
    return None


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_field_of_every_kind_is_said_again_whatever_it_may_be(kind: Kind, folder: Path) -> None:
    fields = {name: field for name, field in kind.spec.model_fields.items() if name != "kind"}
    changed, emptied = set(fields_set_by_us(kind.spec)), set()

    for name, spec in varied(kind):
        says_it_again(Submission(spec=spec), folder)
        value = getattr(spec, name)
        changed |= {name} if fields[name].is_required() or value != fields[name].default else set()
        emptied |= {name} if value in (None, ()) else set()
    changed |= {name for each in EXAMPLES if each["kind"] == kind.name for name in each.keys() - {"kind"}}

    assert set(fields) - changed == set()
    assert {name for name, field in fields.items() if can_be_emptied(field)} <= emptied


@settings(max_examples=25)
@given(spec=SPECS, how=HOW)
def test_whatever_texts_and_numbers_are_in_it(spec: dict[str, Any], how: dict[str, Any], folder: Path) -> None:
    says_it_again(Submission.model_validate({"spec": spec, **how}), folder)


def test_a_program_has_the_texts_by_their_forms_names_and_is_told_of_one_that_there_is_not() -> None:
    with vlyard.Client(transport=vlyard.InProcess({vlyard.NoopSpec: vlyard.NoopResult(attempt=1)})) as client:
        job = client.submit(vlyard.NoopSpec(echo="it's"), pool="default", labels={"try": "first"})

        assert from_cli(vlyard.repeated(job, "cli")) == from_python(vlyard.repeated(client.job(job.id), "python"))
        with pytest.raises(InvalidInput, match="choose from cli, yaml, python"):
            vlyard.repeated(job, "toml")


def test_a_result_that_a_client_returned_says_its_job_again_and_is_otherwise_like_any_other(api: SmallApi) -> None:
    api.life = [{"state": "succeeded", "attempt": 1, "result": {"echo": "it's", "attempt": 1}}]
    made = vlyard.NoopResult(echo="it's", attempt=1)

    for client in (vlyard.Client(api.url, KEY), vlyard.Client(transport=vlyard.InProcess({vlyard.NoopSpec: made}))):
        with client:
            result = client.run(vlyard.NoopSpec(echo="it's"), pool="default", labels={"try": "first"})

            assert result.job is not None
            assert client.job(result.job.id).state == "succeeded"
        for form in Form:
            assert vlyard.repeated(result, form) == vlyard.repeated(result.job, form)
        assert from_cli(vlyard.repeated(result, "cli")).labels == {"try": "first"}
        assert (result, repr(result), result.model_dump_json()) == (made, repr(made), made.model_dump_json())
    with pytest.raises(InvalidInput, match="only what a client returned"):
        vlyard.repeated(made, "cli")


def test_only_what_differs_from_the_defaults_is_said() -> None:
    wanted = Submission.model_validate({"spec": {"kind": "inference", "image": AN_ID, "prompt": "Why?"}})

    assert repeated(job_of(wanted), Form.CLI) == f"vlyard inference --prompt 'Why?' --image {AN_ID}"
    assert repeated(job_of(wanted), Form.YAML) == (
        f"jobs:\n- spec:\n    kind: inference\n    prompt: Why?\n    image: {AN_ID}\n"
    )


def test_what_vlyard_set_when_it_split_a_job_up_is_left_out() -> None:
    spec = {"kind": "prediction", "dataset": AN_ID, "prompt": "Why?", "shards": 2}
    gathering = {**spec, "parts": [f"job:{AN_ID}/predictions"]}
    job = job_of(Submission.model_validate({"spec": gathering}))

    assert from_cli(repeated(job, Form.CLI)) == Submission.model_validate({"spec": spec})


def test_a_time_by_which_it_had_to_start_is_said_again_until_it_has_passed(folder: Path) -> None:
    wanted = Submission.model_validate({"spec": {"kind": "noop"}, "expires_at": TOMORROW})
    job = job_of(wanted)
    late = job.model_copy(update={"expires_at": datetime.now(UTC) - timedelta(seconds=1)})

    says_it_again(wanted, folder)
    assert repeated(job, Form.CLI) == f"vlyard noop --expires-at {TOMORROW.isoformat()}"
    assert [repeated(late, form) for form in Form] == [
        repeated(job.model_copy(update={"expires_at": None}), form) for form in Form
    ]


def picture_of(length: int) -> dict[str, Any]:
    """A question about a picture that is in it, as a data URI of so many bytes."""
    head = "data:image/png;base64,"
    picture = {"type": "image_url", "image_url": {"url": head + "A" * (length - len(head))}}
    return {"kind": "inference", "messages": [{"role": "user", "content": [picture, {"type": "text", "text": "é?"}]}]}


def test_what_is_too_long_for_a_command_line_is_not_said_as_one(folder: Path) -> None:
    wanted = Submission.model_validate({"spec": picture_of(150_002)})
    job = job_of(wanted)

    with pytest.raises(InvalidInput, match=r"--messages: it is 150,\d+ bytes long.* \(use yaml or python\)"):
        repeated(job, Form.CLI)
    assert from_yaml(repeated(job, Form.YAML), folder) == wanted
    assert from_python(repeated(job, Form.PYTHON)) == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="it is a limit of Linux")
@pytest.mark.parametrize(("start", "before"), [("a", ""), ("-", "--chat-template=")])
def test_the_longest_command_line_that_is_said_runs_and_one_byte_more_would_not(start: str, before: str) -> None:
    def line(length: int) -> list[str]:
        template = start + "é" * ((length - 1) // 2) + "a" * ((length - 1) % 2)
        return shlex.split(
            repeated(job_of(Submission(spec=TrainingSpec(dataset=UUID(AN_ID), chat_template=template))), "cli")
        )

    longest = 128 * 1024 - 1 - len(before)
    words = line(longest)

    subprocess.run(["/bin/true", *words], check=True)
    with pytest.raises(OSError, match="too long"):
        subprocess.run(["/bin/true", *(f"{each}a" if "é" in each else each for each in words)], check=True)
    with pytest.raises(InvalidInput, match=r"--chat-template: it is 131,072 bytes long"):
        line(longest + 1)


def test_a_job_of_a_kind_that_this_version_does_not_know_is_refused() -> None:
    job = job_of(
        Submission.model_validate({"spec": {"kind": "noop"}}), kind="dancing", spec={"kind": "dancing", "a": 1}
    )

    with pytest.raises(InvalidInput, match="dancing"):
        repeated(job, Form.YAML)


def test_a_program_is_formatted_as_ruff_would_and_has_nothing_that_it_complains_of(tmp_path: Path) -> None:
    for number, spec in enumerate(EXAMPLES):
        wanted = Submission.model_validate({"spec": spec, "labels": {"a": "b"}})
        (tmp_path / f"program_{number}.py").write_text(repeated(job_of(wanted), Form.PYTHON))

    for words in (("check", "--isolated", "--select", "E,F,I", "--ignore", "E501"), ("format", "--isolated", "--diff")):
        ran = subprocess.run(
            [Path(sys.executable).with_name("ruff"), *words, tmp_path], capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stdout) == (0, ran.stdout if words[0] == "check" else ""), ran.stdout + ran.stderr


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def test_the_program_and_the_command_line_run_as_they_stand(api: SmallApi, tmp_path: Path) -> None:
    api.life = [{"state": "succeeded", "attempt": 1, "result": {"echo": "it's", "attempt": 1}}]
    job = api.add_job(spec={"kind": "noop", "echo": "it's"}, labels={"try": "first"}, pool="night")

    line, program = (run(api, "job", str(job.id), "--repeat", form).stdout for form in ("cli", "python"))
    ran = run(api, *shlex.split(line)[1:], "--json")
    (tmp_path / "program.py").write_text(program)
    said = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env=environment(api), capture_output=True, text=True, check=False
    )

    _, second, third = api.jobs.values()
    assert (ran.returncode, said.returncode, said.stderr) == (0, 0, "")
    assert 'echo="it\'s"' in said.stdout
    for other in (second, third):
        assert isinstance(other.spec, dict)
        assert (other.spec["echo"], other.pool, other.labels) == ("it's", "night", {"try": "first"})
