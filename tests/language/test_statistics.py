"""A data set in numbers: exact, the same however it is divided among processes, and as small for a large set."""

import pickle
import random
import time
from collections.abc import Sequence

import orjson
import pytest

from vlyard.formats.box import Box
from vlyard.formats.record import Look, Record, Target
from vlyard.formats.statistics import EDGES, Tally


def record(*boxes: Sequence[float], look: Look = Look(640, 480), split: str = "train", label: str = "cat") -> Record:
    targets = tuple(Target(0, label, Box.relative(corners)) for corners in boxes)
    return Record(0, "/a.jpg", "images/a.jpg", split, look, targets)


def random_records(count: int, seed: int = 1) -> list[Record]:
    dice = random.Random(seed)

    def box() -> Sequence[float]:
        side = dice.choice([0.0005, 0.003, 0.02, 0.3])
        x, y = dice.random() * (1 - side), dice.random() * (1 - side)
        return x, y, x + side * dice.random(), y + side * dice.random()

    looks = [Look(), Look(640, 480), Look(4000, 3000), Look(31, 900)]
    return [
        record(
            *(box() for _ in range(dice.randrange(9))),
            look=dice.choice(looks),
            split=dice.choice(["train", "val"]),
            label=dice.choice(["cat", "dog", "猫"]),
        )
        for _ in range(count)
    ]


def tallied(records: Sequence[Record]) -> Tally:
    tally = Tally()
    for each in records:
        tally.add(each, [40 * len(each.targets) + 2], [20 * len(each.targets)])
    return tally


def test_what_the_grid_costs_is_measured_as_boxes_measure_it() -> None:
    records = random_records(300)
    boxes = [target.box for each in records for target in each.targets]
    overlaps = [box.iou(Box.from_thousand(box.to_thousand())) for box in boxes]

    grid = tallied(records).as_json()["grid"]

    assert grid["mean_iou"] == pytest.approx(sum(overlaps) / len(overlaps), abs=1e-9)
    assert grid["least_iou"] == pytest.approx(min(overlaps), abs=1e-9)
    assert grid["boxes_without_area_on_the_grid"] == sum(
        Box.from_thousand(box.to_thousand()).area == 0 for box in boxes
    )
    thin = [min(box.x2 - box.x1, box.y2 - box.y1) for box in boxes]
    assert grid["boxes_with_a_side_under_thousandths"] == {
        str(limit): sum(1000 * side < limit for side in thin) for limit in (1, 2, 5, 10)
    }
    assert sum(each["boxes"] for each in grid["by_side"].values()) == len(boxes)


def test_the_grid_costs_a_small_box_more_than_a_large_one() -> None:
    sides = tallied(random_records(300)).as_json()["grid"]["by_side"]

    means = [each["mean_iou"] for each in sides.values()]
    assert means == sorted(means)
    assert sides["100_thousandths_and_more"]["mean_iou"] > 0.98
    assert sides["under_10_thousandths"]["mean_iou"] < 0.8


def test_every_box_picture_and_answer_is_in_one_bar_of_each_histogram() -> None:
    records = random_records(200)
    known = [each for each in records if each.look.width]

    statistics = tallied(records).as_json()

    bars = {name: sum(bar["count"] for bar in bars) for name, bars in statistics["histograms"].items()}
    boxes = sum(len(each.targets) for each in records)
    with_pixels = sum(len(each.targets) for each in known)
    assert statistics["boxes"] == boxes == sum(statistics["boxes_per_class"].values())
    assert bars["box_side_thousandths"] == boxes
    assert bars["box_side_pixels"] == bars["box_width_to_height"] == with_pixels
    assert bars["picture_megapixels"] == len(known)
    assert bars["boxes_per_picture"] == bars["answer_characters"] == bars["answer_tokens"] == len(records)


def test_a_value_is_in_the_bar_whose_edges_hold_it() -> None:
    statistics = tallied([record((0.1, 0.1, 0.2, 0.4), look=Look(1000, 500))]).as_json()

    def bar(name: str) -> tuple[float, float]:
        (only,) = statistics["histograms"][name]
        return only["from"], only["below"]

    assert bar("box_width_to_height") == (2 / 3, 1)  # 100 × 150 pixels
    assert bar("box_side_pixels") == (64, 128)  # 122
    assert bar("box_side_thousandths") == (100, 200)  # 173
    assert bar("picture_width_to_height") == (2, 4)
    assert bar("picture_megapixels") == (0.5, 1)
    assert bar("boxes_per_picture") == (1, 2)


def test_parts_that_were_counted_apart_add_up_to_the_whole() -> None:
    records = random_records(200)
    whole = tallied(records)

    added = Tally()
    for start in range(0, 200, 30):
        added += pickle.loads(pickle.dumps(tallied(records[start : start + 30])))

    ours, theirs = added.as_json(), whole.as_json()
    assert ours["grid"].pop("mean_iou") == pytest.approx(theirs["grid"].pop("mean_iou"))
    for one, other in zip(ours["grid"]["by_side"].values(), theirs["grid"]["by_side"].values(), strict=True):
        assert one.pop("mean_iou") == pytest.approx(other.pop("mean_iou"))
    assert ours == theirs


def test_a_tally_of_many_records_is_as_small_as_one_of_few() -> None:
    few, many = (len(pickle.dumps(tallied(random_records(count)))) for count in (100, 2_000))

    assert many < few + 200


def test_a_set_with_a_class_for_every_box_does_not_grow_the_tally_without_end() -> None:
    tally = Tally()
    for number in range(10_050):
        tally.add(record((0, 0, 1, 1), label=f"number {number}"), [10])

    statistics = tally.as_json()
    assert len(statistics["boxes_per_class"]) == 10_000
    assert statistics["boxes_of_further_classes"] == 50


def test_points_and_pictures_without_objects_are_counted_as_such() -> None:
    statistics = tallied([record((0.5, 0.5, 0.5, 0.5)), record(split="val")]).as_json()

    assert (statistics["points"], statistics["boxes"], statistics["pictures_without_objects"]) == (1, 0, 1)
    assert statistics["grid"]["mean_iou"] is None
    assert statistics["splits"]["val"] == {"pictures": 1, "pictures_without_objects": 1, "samples": 1, "objects": 0}


def test_an_empty_tally_is_json_too() -> None:
    assert orjson.loads(orjson.dumps(Tally().as_json()))["histograms"] == {}
    assert set(tallied(random_records(50)).as_json()["histograms"]) == set(EDGES)


def test_a_box_is_counted_in_less_time_than_boxes_take_to_be_compared() -> None:
    dice = random.Random(2)
    full = record(*((x := dice.random() * 0.5, y := dice.random() * 0.5, x + 0.3, y + 0.2) for _ in range(5_000)))

    def counting() -> float:
        tally, before = Tally(), time.process_time()
        tally.add(full, [100])
        return time.process_time() - before

    def comparing() -> float:
        before = time.process_time()
        for target in full.targets:
            target.box.iou(Box.from_thousand(target.box.to_thousand()))
        return time.process_time() - before

    assert min(counting() for _ in range(5)) < min(comparing() for _ in range(5))
