"""Bundles over a study: one result each, whoever shares the batch."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dicomnode.config import AnalysisSettings
from dicomnode.domain.findings import BundleResult, Priority, findings_digest
from dicomnode.errors import SpoolFileMissing, UnsuitableInput
from dicomnode.inference import bundle as bundles
from dicomnode.inference.anomaly import percentile
from dicomnode.inference.batcher import Batcher, run_batch
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.select import SourceInstance

DX, CT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
Radiograph = Callable[..., Path]
Study = Callable[[int], list[SourceInstance]]


@pytest.fixture
def both(classifier_folder: Path, anomaly_folder: Path) -> tuple[Bundle, Bundle]:
    return bundles.load(classifier_folder), bundles.load(anomaly_folder)


@pytest.fixture
def analyzer(both: tuple[Bundle, Bundle]) -> Iterator[Analyzer]:
    with Analyzer(both, AnalysisSettings(batch_images=4, batch_wait_ms=5)) as opened:
        yield opened


@pytest.fixture
def study(radiograph: Radiograph) -> Study:
    """Return a function that writes so many images of a chest."""

    def write(count: int) -> list[SourceInstance]:
        rng = np.random.default_rng(5)
        images = [rng.integers(0, 4096, (64, 48)).astype("uint16") for _ in range(count)]
        return [
            SourceInstance(radiograph(f"image{n}", pixels), f"1.2.{n + 1}", DX, "DX") for n, pixels in enumerate(images)
        ]

    return write


def settings(batch_images: int) -> AnalysisSettings:
    return AnalysisSettings(batch_images=batch_images, batch_wait_ms=0 if batch_images == 1 else 20)


def test_each_bundle_says_the_largest_and_the_image_that_caused_it(analyzer: Analyzer, study: Study) -> None:
    classified, unusual = analyzer.analyze(study(3))
    assert classified.bundle.name == "small_classifier"
    assert classified.assessed == ("1.2.1", "1.2.2", "1.2.3")
    worst = max(classified.predictions, key=lambda prediction: prediction.value)
    finding = classified.findings[0]
    assert (finding.probability, finding.sop_instance_uid) == (worst.value, worst.sop_instance_uid)
    assert (finding.code.value, finding.priority) == ("233604007", Priority.URGENT)
    assert unusual.anomaly is not None
    assert unusual.anomaly.score == max(prediction.value for prediction in unusual.predictions)
    assert not unusual.findings


def test_numbers_are_plain_floats(analyzer: Analyzer, study: Study) -> None:
    results = analyzer.analyze(study(1))
    assert all(type(prediction.value) is float for result in results for prediction in result.predictions)
    assert results[1].anomaly is not None
    assert type(results[1].anomaly.percentile) is float


@pytest.mark.parametrize("batch_images", [1, 2, 8])
def test_the_result_does_not_depend_on_the_batch(batch_images: int, both: tuple[Bundle, Bundle], study: Study) -> None:
    images = study(6)
    with Analyzer(both, settings(3)) as first, Analyzer(both, settings(batch_images)) as second:
        assert findings_digest(second.analyze(images)) == findings_digest(first.analyze(images))


def test_the_result_does_not_depend_on_the_order(analyzer: Analyzer, study: Study) -> None:
    images = study(5)
    assert analyzer.analyze(images[::-1]) == analyzer.analyze(images)


def test_many_callers_get_their_own_results(both: tuple[Bundle, Bundle], study: Study) -> None:
    images = study(8)
    with Analyzer(both, settings(8)) as analyzer, ThreadPoolExecutor(8) as pool:
        alone = [analyzer.analyze([image]) for image in images]
        together = list(pool.map(lambda image: analyzer.analyze([image]), images))
    assert together == alone


def test_an_unreadable_image_harms_only_itself(analyzer: Analyzer, study: Study, radiograph: Radiograph) -> None:
    good = study(2)
    bad = SourceInstance(radiograph("bad", PixelData=b"\0" * 10), "1.2.0", DX, "DX")
    assert analyzer.analyze([bad, *good]) == analyzer.analyze(good)


def not_applicable(results: tuple[BundleResult, ...]) -> set[str]:
    assert not any(result.assessed or result.findings or result.anomaly for result in results)
    return {result.not_applicable for result in results}


def test_nothing_assessed_is_not_applicable_in_words(
    analyzer: Analyzer, radiograph: Radiograph, tmp_path: Path
) -> None:
    slices = [SourceInstance(tmp_path / f"{n}", f"1.3.{n}", CT, "CT") for n in range(3)]
    lateral = SourceInstance(radiograph("lateral", ViewPosition="LL"), "1.2.9", DX, "DX")
    assert not_applicable(analyzer.analyze([])) == {"no image in the study"}
    assert not_applicable(analyzer.analyze(slices)) == {"modality CT, not CR or DX"}
    assert not_applicable(analyzer.analyze([*slices, lateral])) == {"lateral view"}


def test_an_image_that_cannot_be_decoded_is_not_applicable(analyzer: Analyzer, radiograph: Radiograph) -> None:
    bad = SourceInstance(radiograph("bad", PixelData=b"\0" * 10), "1.2.0", DX, "DX")
    (reason,) = not_applicable(analyzer.analyze([bad]))
    assert "6144 bytes of pixels expected" in reason


def test_a_lost_file_is_a_failure_never_not_applicable(analyzer: Analyzer, study: Study) -> None:
    images = study(2)
    images[1].path.unlink()
    with pytest.raises(SpoolFileMissing):
        analyzer.analyze(images)


def test_an_analyzer_is_used_inside_its_block(both: tuple[Bundle, Bundle], study: Study) -> None:
    analyzer = Analyzer(both, settings(1))
    with pytest.raises(RuntimeError, match="outside its `with` block"):
        analyzer.analyze(study(1))


def test_two_bundles_of_one_name_are_refused(both: tuple[Bundle, Bundle]) -> None:
    with pytest.raises(ValueError, match="the same name"):
        Analyzer([both[0], both[0]], settings(1))


class Fragile:
    """A network that fails on a batch with a negative number in it, and counts its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, batch: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        self.sizes.append(len(batch))
        if (batch < 0).any():
            raise RuntimeError("negative")
        return batch.flatten(1)[:, :1].double().sqrt().numpy()


def image(value: float) -> Tensor:
    return torch.full((1, 8, 8), value)


def test_one_bad_image_in_a_batch_harms_only_itself() -> None:
    fragile = Fragile()
    answers = run_batch(fragile, [image(4), image(-1), image(9)])
    assert fragile.sizes == [3, 1, 1, 1]
    assert isinstance(answers[1], UnsuitableInput)
    assert [float(answer[0]) for answer in answers if not isinstance(answer, UnsuitableInput)] == [2, 3]


def test_an_answer_that_is_not_finite_is_refused() -> None:
    answers = run_batch(lambda batch: batch.flatten(1)[:, :1].double().numpy(), [image(1), image(float("nan"))])
    assert isinstance(answers[1], UnsuitableInput)
    assert not isinstance(answers[0], UnsuitableInput)


def test_images_of_many_callers_share_a_batch() -> None:
    first, release, fragile = threading.Event(), threading.Event(), Fragile()

    def network(batch: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        first.set()
        release.wait(10)
        return fragile(batch)

    batcher = Batcher({"n": network}, batch_images=4, batch_wait_ms=0)
    futures = [batcher.submit({"n": image(1)})]
    first.wait(10)  # the thread is busy: what comes now waits and is one batch
    futures += [batcher.submit({"n": image(n)}) for n in (4, 9, 16)]
    release.set()
    answers = [future.result(10)["n"] for future in futures]
    batcher.close()
    assert [float(answer[0]) for answer in answers if not isinstance(answer, UnsuitableInput)] == [1, 2, 3, 4]
    assert fragile.sizes == [1, 3]


def test_a_closed_batcher_has_answered_everything_and_takes_no_more() -> None:
    batcher = Batcher({"n": Fragile()}, batch_images=4, batch_wait_ms=1000)
    futures = [batcher.submit({"n": image(4)}), batcher.submit({})]
    batcher.close()
    assert [set(future.result(0)) for future in futures] == [{"n"}, set()]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit({})


@pytest.mark.parametrize(("score", "expected"), [(-1, 0), (0, 0), (5, 50), (9.95, 99.5), (20, 100)])
def test_a_score_has_a_place_among_the_training_kind(score: float, expected: float) -> None:
    assert percentile(score, [0.1 * n for n in range(101)]) == pytest.approx(expected)
