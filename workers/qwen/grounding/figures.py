"""All figures of an evaluation, of questions that were judged. It knows no model, no file and no picture.

A question whose picture could not be read has no answer, and its objects count as missed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlyard.formats.answer import Answer, Flag, Note
from vlyard.jobs.evaluation import AtIou, EvaluationResult, EvaluationSpec, Interval
from workers.qwen.grounding.average_precision import Precisions, average_precision
from workers.qwen.grounding.bootstrap import Totals, intervals, ratios
from workers.qwen.grounding.scoring import THRESHOLDS, Judged, Tally, ratio, total
from workers.qwen.grounding.slicing import Case, Size, classes, slices

VERSION = 1  # of the report
COLUMNS = ("class", "truth", "found", "true_positives", "precision", "recall", "f1", "ap_50", "ap_50_95", "mean_iou")

# What a reader of plain JSON would have failed at, or read wrongly.
_MENDED_NOTES = {Note.FENCED, Note.PROSE, Note.LEGACY, Note.TRUNCATED, Note.ENTRY_WITHOUT_BOX}
_MENDED_FLAGS = {Flag.SWAPPED_CORNERS, Flag.NUMBERS_AS_TEXT, Flag.TRUNCATED}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Outcome:
    """What became of one question."""

    judged: Judged
    size: Size | None = None  # of the picture, where it could be read
    answer: Answer | None = None  # None: unanswered
    finish_reason: str | None = None

    @property
    def mended(self) -> bool:
        """Its answer could be read, and a reader of plain JSON would have failed."""
        if self.answer is None or Note.NOTHING_FOUND in self.answer.notes:
            return False
        flags = {flag for each in self.answer.objects for flag in each.flags}
        return bool(_MENDED_NOTES & {*self.answer.notes} or _MENDED_FLAGS & flags)


@dataclass(frozen=True)
class Evaluated:
    """The figures, and the report and the table of classes that go deeper."""

    result: EvaluationResult
    report: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]  # of the table, a cell for each of COLUMNS


def evaluated(outcomes: Sequence[Outcome], spec: EvaluationSpec) -> Evaluated:
    """The result has no outputs and no model yet. At least one question has an answer."""
    judged = [each.judged for each in outcomes]
    cases = [Case(each.judged, each.size) for each in outcomes]
    precisions = average_precision(judged, ignore_labels=spec.ignore_labels)
    result = EvaluationResult(
        **_primary(judged, spec),
        **_behaviour(outcomes),
        map_50=precisions.at_50,
        map_50_95=precisions.at_50_95,
        confidence="ones" if spec.predictions is not None else spec.confidence,
    )
    by_class = classes(cases)
    answers = [each.answer for each in outcomes if each.answer]
    report = {
        "version": VERSION,
        "spec": spec.model_dump(mode="json"),
        "figures": result.model_dump(mode="json", exclude={"artefacts", "model"}),
        "slices": {name: _told(tallies) for name, tallies in slices(cases).items()},
        "classes": _told(by_class, precisions),
        "notes": dict(Counter(note.value for answer in answers for note in answer.notes)),
        "flags": dict(Counter(flag.value for answer in answers for each in answer.objects for flag in each.flags)),
        "finish_reasons": dict(Counter(each.finish_reason for each in outcomes if each.finish_reason)),
    }
    rows = [{**cells, "class": _safe(label)} for label, cells in _told(by_class, precisions).items()]
    return Evaluated(result, report, rows)


def _primary(judged: Sequence[Judged], spec: EvaluationSpec) -> dict[str, Any]:
    tallies = {iou: [each.tally(iou) for each in judged] for iou in THRESHOLDS}
    half, strict = (total(tallies[iou]) for iou in THRESHOLDS)
    counts = [
        (mine.truth, mine.found, mine.right, other.right, mine.overlap)
        for mine, other in zip(*(tallies[iou] for iou in THRESHOLDS), strict=True)
    ]
    spans = intervals(counts, dict(_figures()), spec.bootstrap)
    return {
        "at_50": _at(THRESHOLDS[0], half, spans),
        "at_75": _at(THRESHOLDS[1], strict, spans),
        "mean_iou": _interval(half.mean_iou, spans.get("mean_iou")),
        "objects": half.truth,
        "found": half.found,
    }


_TRUTH, _FOUND, _AT_50, _AT_75, _OVERLAP = range(5)  # columns of counts
_RIGHT = dict(zip(THRESHOLDS, (_AT_50, _AT_75), strict=True))


def _figures() -> Iterator[tuple[str, Callable[[Totals], Totals]]]:
    """Those that have intervals, each from the sums of counts."""
    yield "mean_iou", _share(_OVERLAP, [_TRUTH])
    for iou, right in _RIGHT.items():
        yield f"precision {iou}", _share(right, [_FOUND])
        yield f"recall {iou}", _share(right, [_TRUTH])
        yield f"f1 {iou}", _share(right, [_TRUTH, _FOUND], times=2)


def _share(part: int, wholes: list[int], times: int = 1) -> Callable[[Totals], Totals]:
    return lambda sums: ratios(times * sums[:, part], sums[:, wholes].sum(axis=1))


def _at(iou: float, tally: Tally, spans: Mapping[str, tuple[float, float]]) -> AtIou:
    return AtIou(
        iou=iou,
        true_positives=tally.right,
        false_positives=tally.found - tally.right,
        false_negatives=tally.truth - tally.right,
        precision=_interval(tally.precision, spans.get(f"precision {iou}")),
        recall=_interval(tally.recall, spans.get(f"recall {iou}")),
        f1=_interval(tally.f1, spans.get(f"f1 {iou}")),
    )


def _interval(value: float, span: tuple[float, float] | None) -> Interval:
    low, high = span or (None, None)
    return Interval(value=value, low=low, high=high)


def _behaviour(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    answers = [(each.answer, each) for each in outcomes if each.answer]
    alarms = [bool(each.judged.found) for _, each in answers if not each.judged.truth]
    return {
        "samples": len(outcomes),
        "unanswered": len(outcomes) - len(answers),
        "counting_error": _mean([abs(len(each.judged.found) - len(each.judged.truth)) for each in outcomes]),
        "negatives": sum(not each.judged.truth for each in outcomes),
        "false_alarms": _mean(alarms) if alarms else None,
        "parse_failures": _mean([Note.NOTHING_FOUND in answer.notes for answer, _ in answers]),
        "salvaged": _mean([each.mended for _, each in answers]),
        "loops": _mean([each.finish_reason == "loop" for _, each in answers]),
    }


def _mean(values: Sequence[float]) -> float:
    return ratio(sum(values), len(values))


def _told(tallies: Mapping[str, Tally], precisions: Precisions | None = None) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for name, tally in tallies.items():
        told[name] = {
            "truth": tally.truth,
            "found": tally.found,
            "true_positives": tally.right,
            "precision": tally.precision,
            "recall": tally.recall,
            "f1": tally.f1,
            "mean_iou": tally.mean_iou,
        }
        if precisions is not None:
            at_50, at_50_95 = precisions.classes.get(name, (None, None))
            told[name] |= {"ap_50": at_50, "ap_50_95": at_50_95}
    return told


def _safe(text: str) -> str:
    """As a spreadsheet shows it and does not compute it: labels come from anybody."""
    return f"'{text}" if text.startswith(_FORMULA) else text
