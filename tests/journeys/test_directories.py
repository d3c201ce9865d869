"""A folder of labels goes up as it is, and a job reads it as it reads an archive."""

from pathlib import Path

from db import artefacts
from tests.journeys.conftest import Running
from vlyard import ConversionResult, ConversionSpec
from vlyard.demo.shapes import draw_dataset


def test_a_yolo_folder_is_converted_without_being_packed(running: Running, tmp_path: Path) -> None:
    # given a folder of labelled pictures that was uploaded as a tree
    draw_dataset(tmp_path / "yolo", count=6, seed=11)
    source = running.client.upload_tree(tmp_path / "yolo")
    # when a job converts it, in a process of its own
    result = running.client.run(ConversionSpec(source=source.id, name="shapes"), timeout=120)
    # then the result accounts for every picture and box
    assert isinstance(result, ConversionResult)
    assert (result.layout, result.samples, result.boxes, result.annotations_refused) == ("ultralytics", 6, 6, 0)
    # and what the job made carries the attempt's number in its key
    with running.system.database.transaction() as session:
        made = artefacts.ready(session, running.system.caller().team, result.artefacts.values())
    assert {row.attempt for row in made} == {1}
    assert all(f"/jobs/{row.job_id}/attempts/{row.attempt}/" in row.key for row in made)
    assert len(made) == len(result.artefacts)
