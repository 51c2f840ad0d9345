"""The figures of an evaluation, the linear baseline and the report page, on invented scores."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn import metrics as sklearn

from dicomnode.inference.manifest import AnomalyOutput, ClassifierOutput
from dicomnode.training.baseline import PENALTY, baseline_scores, fit_baseline
from dicomnode.training.card import anomaly_figures, classifier_figures
from dicomnode.training.data import ImageSet
from dicomnode.training.evaluate import Scored, anomaly_table, classifier_table
from dicomnode.training.labelled import unlabelled

RNG = np.random.default_rng(11)


def output(*names: str) -> ClassifierOutput:
    point: dict[str, Any] = {
        "threshold": 0.5,
        "rule": "half",
        "sensitivity": 0.9,
        "specificity": 0.9,
        "measured_on": "-",
    }
    point |= {"sensitivity_interval": (0.8, 1.0), "specificity_interval": (0.8, 1.0)}
    code = {"value": "1", "scheme": "99TEST", "meaning": "a test"}
    classes = [{"label": n, "code": code, "priority": "routine", "operating_point": point} for n in names]
    activation = "sigmoid" if len(names) == 1 else "softmax"
    return ClassifierOutput.model_validate({"activation": activation, "names": names, "classes": classes})


def image_set(labels: np.ndarray[Any, Any], **groups: np.ndarray[Any, Any]) -> ImageSet:
    number = len(labels)
    images = torch.rand(number, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    floors = {"file size": -labels.astype(np.float64) - RNG.random(number)}
    patients = np.arange(number).astype(np.str_)
    return ImageSet(images, labels, patients, floors, names=patients, groups=groups)


@pytest.fixture
def pneumonia() -> Scored:
    labels = np.repeat([0, 1], [70, 80])
    few = np.zeros(150, np.bool_)
    few[:25] = few[-5:] = True
    scores = np.clip(RNG.normal(0.35 + 0.3 * labels, 0.2), 0, 1)
    return Scored(image_set(labels, **{"view: AP": few, "view: any": np.ones(150, np.bool_)}), scores[:, None])


@pytest.fixture
def digits() -> Scored:
    labels = RNG.integers(0, 3, 200)
    logits = 2.0 * np.eye(3)[labels] + RNG.normal(0, 1, (200, 3))
    return Scored(image_set(labels), np.exp(logits) / np.exp(logits).sum(1, keepdims=True))


def test_the_figures_of_one_class_are_those_of_scikit_learn(pneumonia: Scored) -> None:
    table = classifier_table(output("Pneumonia"), pneumonia)
    labels, scores = pneumonia.images.labels, pneumonia.scores[:, 0]
    found = {name: figure["value"] for name, figure in table["metrics"].items()}
    assert found["AUC"] == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-4)
    assert found["F1"] == pytest.approx(sklearn.f1_score(labels, scores >= 0.5), abs=1e-4)
    assert table["confusion"]["rows"] == sklearn.confusion_matrix(labels, scores >= 0.5).tolist()
    assert table["operating points"]["Pneumonia"]["PPV"] == table["metrics"]["precision"]
    for figure in table["metrics"].values():
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]


def test_the_figures_of_many_classes_are_those_of_scikit_learn(digits: Scored) -> None:
    table = classifier_table(output("a", "b", "c"), digits)
    labels, answers = digits.images.labels, digits.scores.argmax(1)
    expected = {
        "accuracy": sklearn.accuracy_score(labels, answers),
        "macro AUC": sklearn.roc_auc_score(labels, digits.scores, multi_class="ovr"),
        "macro precision": sklearn.precision_score(labels, answers, average="macro"),
        "macro sensitivity": sklearn.recall_score(labels, answers, average="macro"),
        "macro F1": sklearn.f1_score(labels, answers, average="macro"),
        "log loss": sklearn.log_loss(labels, digits.scores),
    }
    assert {name: table["metrics"][name]["value"] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert table["confusion"]["rows"] == sklearn.confusion_matrix(labels, answers).tolist()
    assert set(table["classes"]) == {"a", "b", "c"}
    assert "| all | 200 |" in classifier_figures({"all": table}, output("a", "b", "c"))


def test_a_class_without_images_is_left_out_of_the_means(digits: Scored) -> None:
    table = classifier_table(output("a", "b", "c", "d"), Scored(digits.images, np.pad(digits.scores, ((0, 0), (0, 1)))))
    assert set(table["classes"]) == {"a", "b", "c"}
    assert table["operating points"]["d"]["sensitivity"] == {"value": None, "interval": None}
    assert table["metrics"]["macro AUC"]["value"] > 0.8


def test_a_subgroup_of_few_images_gives_no_figure_for_them(pneumonia: Scored) -> None:
    table = classifier_table(output("Pneumonia"), pneumonia)
    assert list(table["subgroups"]) == ["view: AP"]  # a group of all images says nothing
    part = table["subgroups"]["view: AP"]
    assert (part["images"], part["positives"]) == (30, 5)
    assert part["metrics"]["AUC"] is None
    assert part["metrics"]["sensitivity"] is None
    assert part["metrics"]["specificity"]["value"] > 0.5
    card = classifier_figures({"test": table}, output("Pneumonia"))
    assert "- test, view: AP (30 (5)): AUC too few, sensitivity too few, specificity" in card


def test_a_floor_counts_whichever_way_it_points(pneumonia: Scored) -> None:
    table = classifier_table(output("Pneumonia"), pneumonia)
    assert table["floors"] == {"AUC of file size alone": 1.0}


def test_the_same_evaluation_gives_the_same_table(pneumonia: Scored) -> None:
    assert classifier_table(output("Pneumonia"), pneumonia) == classifier_table(output("Pneumonia"), pneumonia)


def test_an_anomaly_table_says_what_is_flagged_and_what_sharpness_alone_does(pneumonia: Scored) -> None:
    known = AnomalyOutput(
        score_name="distance", unit="-", threshold=2.0, flag_quantile=0.9, quantiles=tuple(range(101)), measured_on="-"
    )
    genuine = Scored(pneumonia.images, RNG.uniform(0, 2.1, (150, 1)))
    blank = Scored(unlabelled(torch.zeros(4, 1, 32, 32)), np.array([[1.0], [3.0], [3.0], [3.0]]))
    table = anomaly_table(known, genuine, {"blank": blank})
    row = table["wrong inputs"]["blank"]
    assert (row["images"], row["flagged"], row["AUC of sharpness alone"]) == (4, 0.75, 1.0)
    assert table["genuine flagged"] == pytest.approx((genuine.scores > 2).mean(), abs=1e-4)
    assert table["subgroups"]["view: AP"]["images"] == 30
    assert "| blank | 4 |" in anomaly_figures(table, known)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_baseline_is_the_logistic_regression_of_scikit_learn(classes: int) -> None:
    labels = np.arange(240) % classes
    images = torch.rand(240, 1, 28, 28, generator=torch.Generator().manual_seed(4)) * 0.6
    for number in range(classes):
        images[labels == number, 0, 4 * number : 4 * number + 4] += 0.1
    weights = fit_baseline(ImageSet(images, labels, labels.astype(np.str_), {}))
    assert weights["weight"].shape == (1 if classes == 2 else classes, 784)
    found = baseline_scores(weights, images)
    model = linear_model.LogisticRegression(C=1 / (2 * PENALTY * 240), max_iter=2000, tol=1e-8)
    expected = model.fit(images.flatten(1).double().numpy() - 0.5, labels).predict_proba(
        images.flatten(1).numpy() - 0.5
    )
    assert found == pytest.approx(expected[:, 1:] if classes == 2 else expected, abs=5e-3)
    assert torch.equal(weights["weight"], fit_baseline(ImageSet(images, labels, labels.astype(np.str_), {}))["weight"])
