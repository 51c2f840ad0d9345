"""The manifest of a bundle, `bundle.toml`: everything the node must know of a network, as data.

No key that we do not know, no NaN, no infinite number. `Manifest.model_json_schema()` is its JSON Schema.
"""

import tomllib
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicomnode.domain.findings import Priority
from dicomnode.errors import BundleError
from dicomnode.inference.display import Voi
from dicomnode.inference.networks import Parameter
from dicomnode.inference.preprocess import Normalize, Step, output_size

MANIFEST_NAME = "bundle.toml"
WEIGHTS_NAME = "weights.safetensors"
MODEL_NAME = "model.onnx"
METRICS_NAME = "metrics.json"
CODES_NAME = "demo_codes.safetensors"


def _is_inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no plain file name inside the bundle")
    return name


FileName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_is_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]


def _rises(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(values):
        raise ValueError("the quantiles do not rise")
    return values


Quantiles = Annotated[tuple[float, ...], Field(min_length=101, max_length=101), AfterValidator(_rises)]
"""The values at percentiles 0, 1, ... 100 of a reference set."""


class Table(BaseModel):
    """A table of the manifest: frozen, no unknown key, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Architecture(Table):
    """A name of the registry in `inference/networks/` and the parameters of the network."""

    name: str
    parameters: dict[str, Parameter] = {}


class Selection(Table):
    """Which instances of a study the bundle looks at; an empty list asks for nothing.

    `excluded_views` are refused whatever else the header says; `exclude` refuses an instance by an attribute's value.
    """

    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    excluded_views: tuple[str, ...] = ()
    exclude: dict[str, tuple[str, ...]] = {}
    min_rows: int = Field(default=1, ge=1)
    min_columns: int = Field(default=1, ge=1)
    min_age_years: float | None = Field(default=None, ge=0, le=150)
    max_age_years: float | None = Field(default=None, ge=0, le=150)


class Preprocessing(Table):
    """Display values to network input, in this order."""

    voi: Voi = Voi()
    steps: tuple[Step, ...] = Field(min_length=1)


class TensorDescription(Table):
    """What the network takes: a batch of these."""

    channels: Literal[1, 3] = 1
    rows: int = Field(ge=8, le=1024)
    columns: int = Field(ge=8, le=1024)
    dtype: Literal["float32"] = "float32"
    minimum: float = 0.0
    maximum: float = 1.0


class Calibration(Table):
    """Logits to calibrated logits: `scale * logit + offset` (Platt; with offset 0 temperature scaling)."""

    method: Literal["none", "platt", "temperature"] = "none"
    scale: float = Field(default=1.0, gt=0)
    offset: float = 0.0
    fitted_on: str = ""


class CodeTable(Table):
    """A coded concept."""

    value: str = Field(min_length=1, max_length=64)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class OperatingPoint(Table):
    """The probability from which a class is suspected, and what was measured there."""

    threshold: Share
    rule: str
    sensitivity: Share
    sensitivity_interval: Interval
    specificity: Share
    specificity_interval: Interval
    measured_on: str


class ClassTable(Table):
    """A class that the node reports; `quantiles` of its probability on validation are the reference of drift."""

    label: str = Field(min_length=1)
    code: CodeTable
    site: CodeTable | None = None
    priority: Priority
    operating_point: OperatingPoint
    quantiles: Quantiles | None = None


class ClassifierOutput(Table):
    """Names of the network's outputs in order; each is reported as a class or stands in `ignored`.

    `activation` makes probabilities of them; `none` where the network gives probabilities already.
    """

    activation: Literal["sigmoid", "softmax", "none"]
    names: tuple[str, ...] = Field(min_length=1)
    ignored: tuple[str, ...] = ()
    calibration: Calibration = Calibration()
    classes: tuple[ClassTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_agree(self) -> "ClassifierOutput":
        reported = [known.label for known in self.classes]
        if sorted([*reported, *self.ignored]) != sorted(set(self.names)) or len(set(self.names)) != len(self.names):
            raise ValueError(f"outputs {self.names} are not classes {reported} and ignored {self.ignored}, each once")
        if self.activation == "softmax" and len(self.names) < 2:
            raise ValueError("softmax needs two outputs or more")
        if self.activation == "none" and self.calibration.method != "none":
            raise ValueError("a calibration is for logits; activation none means that the network gives probabilities")
        return self


class AnomalyOutput(Table):
    """The score of an anomaly bundle: `quantiles` are the scores at percentiles 0, 1, ... 100 of the training kind."""

    label: str = "Unusual image"
    score_name: str
    unit: str
    threshold: float
    flag_quantile: Share
    quantiles: Quantiles
    measured_on: str


class Measured(Table):
    """A figure with its 95 % bootstrap interval by patient."""

    value: float
    interval: tuple[float, float] | None = None


class Evaluation(Table):
    """What was measured on one set of images, and what shortcuts alone and a linear baseline reach there."""

    images: int = Field(ge=1)
    patients: int | None = Field(default=None, ge=1)
    metrics: dict[str, Measured]
    floors: dict[str, float] = {}


class TrainingOrigin(Table):
    """What the network learned from."""

    data: str
    licence: str
    data_sha256: Sha256
    seed: int
    epochs: int
    libraries: dict[str, str]


class Licences(Table):
    """SPDX names of what may be done with the architecture's code and with the weights."""

    code: str
    weights: str


class Reference(Table):
    """Inputs with the outputs that must come out again at every load, within `tolerance`."""

    tolerance: float = Field(gt=0, le=0.1)
    cases: tuple[FileName, ...] = Field(min_length=1)


class Manifest(Table):
    """`bundle.toml`."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    kind: Literal["classifier", "anomaly"]
    title: str = Field(min_length=1, max_length=64)
    status: Literal["research", "released"]
    intended_use: str
    not_for: tuple[str, ...] = Field(min_length=1)
    architecture: Architecture | None = Field(default=None, description="none where the network is model.onnx")
    input: Selection
    preprocessing: Preprocessing
    tensor: TensorDescription
    classifier: ClassifierOutput | None = None
    anomaly: AnomalyOutput | None = None
    explanation: Literal["none", "grad_cam", "residual"] = "none"
    training: TrainingOrigin
    evaluation: dict[str, Evaluation] = {}
    licences: Licences
    reference: Reference
    files: dict[FileName, Sha256]

    @model_validator(mode="after")
    def _is_consistent(self) -> "Manifest":
        outputs = {"classifier": self.classifier, "anomaly": self.anomaly}
        if [kind for kind, output in outputs.items() if output] != [self.kind]:
            raise ValueError(f"a bundle of kind {self.kind} has the table [{self.kind}] and no other output")
        if sum(name in self.files for name in (WEIGHTS_NAME, MODEL_NAME)) != 1:
            raise ValueError(f"[files] lists exactly one of {WEIGHTS_NAME} and {MODEL_NAME}")
        if (self.architecture is None) != (MODEL_NAME in self.files):
            raise ValueError(f"{WEIGHTS_NAME} needs the table [architecture], {MODEL_NAME} has none")
        if MODEL_NAME in self.files and self.explanation != "none":
            raise ValueError(
                f"explanation {self.explanation!r} needs gradients or codes, which {MODEL_NAME} does not give"
            )
        missing = [name for name in self.reference.cases if name not in self.files]
        if missing:
            raise ValueError(f"[files] does not list {', '.join(missing)}")
        size = output_size(self.preprocessing.steps)
        if size != (self.tensor.rows, self.tensor.columns):
            raise ValueError(
                f"the preprocessing ends at {size}, the tensor has {self.tensor.rows}, {self.tensor.columns}"
            )
        for number, step in enumerate(self.preprocessing.steps, 1):
            if isinstance(step, Normalize):
                if number < len(self.preprocessing.steps):
                    raise ValueError("the step normalize is the last one")
                if len(step.mean) not in (1, self.tensor.channels):
                    raise ValueError(
                        f"normalize has {len(step.mean)} means, the tensor has {self.tensor.channels} channels"
                    )
        return self

    @property
    def network_name(self) -> str:
        """The architecture's name."""
        return "ONNX" if self.architecture is None else self.architecture.name

    @property
    def network_file(self) -> str:
        """The file that holds the network."""
        return MODEL_NAME if MODEL_NAME in self.files else WEIGHTS_NAME


def parse(data: bytes, source: str) -> Manifest:
    """Return the manifest in `data` (TOML); raise `BundleError` that names `source` and every wrong key."""
    try:
        return Manifest.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BundleError(f"{source}: not valid TOML: {exc}") from exc
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in exc.errors())
        raise BundleError(f"{source}: {wrong}") from exc
