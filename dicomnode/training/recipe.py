"""The recipe of a bundle, `train.toml`: `dicomnode train` needs nothing else but the data."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dicomnode.domain.findings import Priority
from dicomnode.errors import ConfigError
from dicomnode.inference.manifest import Architecture, CodeTable, Licences, Preprocessing, Selection, Share, Table
from dicomnode.training.augment import Augmentation

RECIPE_NAME = "train.toml"


class About(Table):
    """What goes into the manifest as it stands."""

    name: str
    version: str
    title: str
    status: Literal["research", "released"] = "research"
    intended_use: str
    not_for: tuple[str, ...]
    explanation: Literal["none", "grad_cam", "residual"] = "none"


class DataSource(Table):
    """Which set of `training/sets.py`, and where it is from.

    Images of `kermany` are stored squashed: `restored` undoes that, `random` shows each training image restored or as
    it is stored by chance, and those whose aspect ratio is not known too; validation and test images stay restored.
    """

    set: Literal["kermany", "mnist", "folder"]
    description: str
    licence: str
    aspect: Literal["restored", "random"] = "restored"


class ReportedClass(Table):
    """A class as the data names it, what it is called in a report, and the rule of its operating point."""

    label: str
    code: CodeTable
    site: CodeTable | None = None
    priority: Priority
    sensitivity: Share = Field(description="the largest threshold with at least this sensitivity on validation")


class ClassifierTarget(Table):
    """The classes that the network tells apart.

    One class (its keys may stand in the table itself) is a yes or no by sigmoid; several, or one among `ignored` ones,
    are exclusive by softmax.
    """

    classes: tuple[ReportedClass, ...] = Field(min_length=1)
    ignored: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_class(cls, values: object) -> object:
        if isinstance(values, dict) and "classes" not in values:
            rest = {key: value for key, value in values.items() if key != "ignored"}
            return {"classes": [rest], "ignored": values.get("ignored", ())}
        return values

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """How outputs become probabilities."""
        return "softmax" if len(self.classes) + len(self.ignored) > 1 else "sigmoid"


class AnomalyTarget(Table):
    """How the score is made from the trained autoencoder."""

    score_name: str
    unit: str
    flag_quantile: Share = Field(description="of the validation scores: above it an image is unusual")
    shrinkage: Share = Field(default=0.05, description="of the features' correlation towards independence")
    judge: str = Field(default="", description="a classifier bundle beside this one that judges the synthetic images")
    demo_codes_per_class: int = Field(default=4, ge=1, le=8)


class Fit(Table):
    """Optimization: AdamW on a one-cycle schedule, averaged weights, early stopping on validation."""

    epochs: int = Field(ge=1)
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    loss: Literal["cross_entropy", "focal"] = Field(default="cross_entropy", description="of a classifier")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where torch sees one")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of the forward pass in training")
    mixup: float = Field(default=0.0, ge=0, le=2, description="alpha of the Beta distribution; 0 mixes nothing")
    half_size_epochs: int = Field(default=0, ge=0, description="the first epochs see images of half the side: faster")
    batch: int = Field(default=64, ge=2)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    average_decay: float = Field(
        default=0.99, ge=0, lt=1, description="of the averaged weights; less in a short training"
    )
    patience: int = Field(default=5, ge=1, description="epochs without a better validation loss")
    seed: int = 0


class Recipe(Table):
    """`train.toml`."""

    about: About
    architecture: Architecture
    input: Selection
    preprocessing: Preprocessing
    data: DataSource
    classifier: ClassifierTarget | None = None
    anomaly: AnomalyTarget | None = None
    augmentation: Augmentation = Augmentation()
    fit: Fit
    licences: Licences

    @model_validator(mode="after")
    def _has_one_target(self) -> "Recipe":
        if (self.classifier is None) == (self.anomaly is None):
            raise ValueError("a recipe has one of the tables [classifier] and [anomaly]")
        return self


def load_recipe(folder: Path) -> Recipe:
    """Return the recipe in `folder`; raise `ConfigError` that names every wrong key."""
    file = folder / RECIPE_NAME
    try:
        return Recipe.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: not valid TOML: {exc}") from exc
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in exc.errors())
        raise ConfigError(f"{file}: {wrong}") from exc
