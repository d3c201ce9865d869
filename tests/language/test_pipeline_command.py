"""`vlyard run`, `retry` and `clone` as a user runs them, and the client's calls below them."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.language.small_api import KEY, Fault, SmallApi, problem, serving
from tests.language.test_cli import run
from vlyard.client import Client
from vlyard.errors import InvalidInput
from vlyard.jobs.noop import NoopSpec
from vlyard.jobs.view import Changes, Entry

DONE = {"state": "succeeded", "attempt": 1, "result": {}}
FAILED = {"state": "failed", "error": {"code": "user_error", "message": "no such luck", "blame": "user"}}
PIPELINE = """
jobs:
  - name: convert
    labels: {site: north}
    spec: {kind: conversion, source: "file:street.zip", prompts: ["file:street.zip is a text here"]}
  - name: again
    spec: {kind: conversion, source: "file:street.zip"}
  - spec: {kind: inference, image: "ref:convert/contact_sheet", prompt: "Why?"}
"""


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


@pytest.fixture
def client(api: SmallApi) -> Iterator[Client]:
    with Client(api.url, KEY) as client:
        yield client


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    (tmp_path / "street.zip").write_bytes(b"labels")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path / "pipeline.yaml"


def posted(api: SmallApi, path: str) -> Any:
    """The one body that was posted there."""
    [body] = [asked.body for asked in api.asked if (asked.method, asked.path) == ("POST", path)]
    return json.loads(body)


def test_a_pipeline_uploads_its_files_once_submits_its_jobs_together_and_shows_their_ends(
    api: SmallApi, pipeline: Path
) -> None:
    api.life = [{"state": "queued"}, DONE]

    ran = run(api, "run", pipeline)

    assert (ran.returncode, ran.stderr.strip()) == (0, "")
    [artefact] = api.artefacts.values()
    assert api.objects[f"/s3/{artefact.id}"] == b"labels"
    convert, again, look = posted(api, "/v1/jobs:batch")["jobs"]
    assert convert["spec"]["source"] == again["spec"]["source"] == str(artefact.id)
    assert convert["spec"]["prompts"] == ["file:street.zip is a text here"]
    assert (convert["name"], convert["labels"]) == ("convert", {"site": "north"})
    assert (look["name"], look["spec"]["image"]) == (None, "ref:convert/contact_sheet")
    assert [line.split()[:3] for line in ran.stdout.splitlines()[1:3]] == [
        ["convert", "conversion", "succeeded"],
        ["again", "conversion", "succeeded"],
    ]


def test_a_pipeline_of_many_jobs_asks_about_a_few_at_a_time(api: SmallApi, tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(json.dumps({"jobs": [{"spec": {"kind": "noop"}}] * 100}))
    api.life = [{"state": "queued"}, DONE]

    ran = run(api, "run", tmp_path / "many.yaml")

    assert (ran.returncode, ran.stderr.strip()) == (0, "")
    patient = ["wait" in asked.query for asked in api.asked if asked.method == "GET"]
    assert 100 <= len(patient) <= 250
    assert max(len(list(group)) for waits, group in groupby(patient) if not waits) < 16


def test_a_pipeline_fails_where_a_job_of_it_does_and_says_which(api: SmallApi, pipeline: Path) -> None:
    api.life = [FAILED]

    ran = run(api, "run", pipeline, "--json")

    jobs = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 3
    assert [job["state"] for job in jobs] == ["failed"] * 3
    assert "3 of 3 jobs did not succeed" in ran.stderr
    assert f"job {jobs[0]['id']}: no such luck" in ran.stderr.replace("\n", " ")


def test_one_command_that_tunes_prints_its_jobs_for_programs_also_where_one_of_them_fails(
    api: SmallApi, tmp_path: Path
) -> None:
    (tmp_path / "street.zip").write_bytes(b"labels")
    api.life = [FAILED]

    ran = run(api, "train", tmp_path / "street.zip", "--json")

    jobs = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 3
    assert [job["kind"] for job in jobs] == ["conversion", "training_check", "training", "evaluation"]
    assert {job["error"]["message"] for job in jobs} == {"no such luck"}
    assert "4 of 4 jobs did not succeed" in ran.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs: [{spec: {kind: conversion, source: 'file:nowhere.zip'}}]", "there is no file or folder nowhere.zip"),
        ("jobs: [{spec: {kind: inference, image: 'file:.', prompt: a}}]", "is a folder, and this takes a file"),
        ("jobs: [{spec: {kind: conversion}}]", "source"),
        ("jobs: [{spec: {kind: conversion, source: street.zip}}]", "of this machine write file:PATH"),
        ("jobs: [{spec: {kind: inference, images: ['file:a', 'file:./a'], prompt: a}}]", "names a picture twice"),
        ("jobs: []", "/jobs"),
        ("jobs: [{spec: {kind: conversion, source: 'file:'}}]", "it names no file or folder"),
        ("jobs: [{spec: {kind: dancing}}]", "/jobs/0/spec/kind: there is no kind 'dancing' (use one of 'conversion'"),
        ("jobs: [{spec: {kind: noop}, nam: a}]", "/jobs/0/nam: there is no such field"),
        ("- kind: noop", "there is no list of jobs (write `jobs:`"),
        ("kind: noop", "submit this one job with: vlyard submit"),
    ],
)
def test_a_pipeline_that_is_none_is_refused_before_anything_is_sent(
    api: SmallApi, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    (tmp_path / "a").write_bytes(b"picture")

    ran = run(api, "run", tmp_path / "wrong.yaml")

    assert (ran.returncode, "at least 1 item" in ran.stderr) == (2, text == "jobs: []")
    assert said in ran.stderr
    assert api.asked == []


@pytest.mark.parametrize(
    "spec",
    [
        "{kind: conversion, source: 'file:street'}",
        "{kind: training, dataset: 'file:street'}",
        "{kind: export, model: demo, dataset: 'file:street'}",  # which the verification reads
    ],
)
def test_a_folder_is_uploaded_as_a_tree_where_the_field_takes_one(api: SmallApi, tmp_path: Path, spec: str) -> None:
    (tmp_path / "street").mkdir()
    (tmp_path / "street" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "pipeline.yaml").write_text(f"jobs: [{{spec: {spec}}}]")
    refusal = problem(422, "invalid_input", "That is enough.")
    api.faults["POST /v1/artefacts:tree"] = [Fault(refusal)]

    ran = run(api, "run", tmp_path / "pipeline.yaml")

    assert (ran.returncode, ran.stderr) == (2, "error: That is enough.\n")
    tree = posted(api, "/v1/artefacts:tree")
    assert (tree["name"], [file["path"] for file in tree["files"]]) == ("street", ["a.txt"])


def test_a_pipeline_of_one_job_can_be_submitted_and_one_of_several_cannot(api: SmallApi, tmp_path: Path) -> None:
    one = {"spec": {"kind": "noop"}, "pool": "night", "labels": {"a": "b"}, "priority": 3}
    (tmp_path / "one.yaml").write_text(json.dumps({"jobs": [one]}))
    (tmp_path / "two.yaml").write_text(json.dumps({"jobs": [one, one]}))

    ran = run(api, "submit", tmp_path / "one.yaml", "--priority", "5")
    refused = run(api, "submit", tmp_path / "two.yaml")

    (job,) = api.jobs.values()
    assert (ran.returncode, job.pool, job.labels, job.priority) == (0, "night", {"a": "b"}, 5)
    assert (refused.returncode, "run them with: vlyard run" in refused.stderr) == (2, True)


def test_a_pipeline_whose_jobs_were_only_cancelled_says_so_by_its_exit_status(api: SmallApi) -> None:
    api.life = [{"state": "cancelled"}]

    assert run(api, "run", "-", stdin="jobs: [{spec: {kind: noop}}]").returncode == 4


def test_a_job_is_retried_and_cloned_with_changes(api: SmallApi) -> None:
    job = api.add_job(state="failed", spec={"kind": "noop", "echo": "a"})

    again = json.loads(run(api, "retry", str(job.id), "--json").stdout)
    changes = ("--set", "spec.echo=Why: me?", "--set", "spec.seconds=2", "--set", "priority=7", "--set", "labels.try=b")
    cloned = json.loads(run(api, "clone", str(job.id), *changes, "--json").stdout)

    assert (again["cloned_from"], again["spec"]) == (str(job.id), {"kind": "noop", "echo": "a"})
    assert cloned["spec"] == {"kind": "noop", "echo": "Why: me?", "seconds": 2}
    assert (cloned["priority"], cloned["labels"], cloned["cloned_from"]) == (7, {"try": "b"}, str(job.id))


def test_a_file_of_this_machine_is_uploaded_for_the_clone_that_is_asked_about_it(api: SmallApi, tmp_path: Path) -> None:
    # given a job about one picture, and another picture on this machine
    asked = {"kind": "inference", "image": str(uuid4()), "prompt": "Why?"}
    job = api.add_job(kind="inference", spec=asked)
    (tmp_path / "b.jpg").write_bytes(b"another")
    # when it is cloned with that one instead, and with a question that only looks like a file
    changes = ("--set", f"spec.image=file:{tmp_path}/b.jpg", "--set", "spec.prompt=file:b.jpg")
    cloned = json.loads(run(api, "clone", str(job.id), *changes, "--json").stdout)
    # then it is asked about what was uploaded
    [artefact] = api.artefacts.values()
    assert api.objects[f"/s3/{artefact.id}"] == b"another"
    assert cloned["spec"] == asked | {"image": str(artefact.id), "prompt": "file:b.jpg"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("spec.image=file:nowhere.jpg", "there is no file or folder nowhere.jpg"),
        ("spec.image=file:.", "is a folder, and this takes a file"),
    ],
)
def test_a_file_that_is_not_there_clones_nothing(api: SmallApi, change: str, said: str) -> None:
    job = api.add_job(kind="inference", spec={"kind": "inference", "image": str(uuid4()), "prompt": "Why?"})

    ran = run(api, "clone", str(job.id), "--set", change)

    assert (ran.returncode, len(api.jobs), api.artefacts) == (2, 1, {})
    assert said in ran.stderr


@pytest.mark.parametrize("change", ["echo", "=a", "nothing=1", "priority=1000", "priority.x=1"])
def test_a_change_that_is_none_is_refused(api: SmallApi, change: str) -> None:
    job = api.add_job()

    ran = run(api, "clone", str(job.id), "--set", change)

    assert (ran.returncode, api.asked) == (2, [])


def test_many_jobs_are_submitted_with_one_call_and_come_back_in_order(api: SmallApi, client: Client) -> None:
    jobs = client.submit_many([Entry(spec=NoopSpec(echo=str(at)), labels={"at": str(at)}) for at in range(3)])
    assert [job.labels for job in jobs] == [{"at": "0"}, {"at": "1"}, {"at": "2"}]
    assert len(api.asked) == 1
    with pytest.raises(InvalidInput):
        client.submit_many([])


def test_the_client_repeats_changes_moves_and_labels_jobs(api: SmallApi, client: Client) -> None:
    job = client.submit(NoopSpec(), labels={"a": "b"})
    assert job.labels == {"a": "b"}
    assert client.retry(job.id).cloned_from == job.id
    assert client.clone(job.id, Changes(pool="night")).pool == "night"
    assert client.reprioritise(job.id, 5).priority == 5
    assert isinstance(client.clone(job.id).id, UUID)
    with pytest.raises(InvalidInput):
        client.reprioritise(job.id, 101)
