"""The texts of a new bundle: a card with its headings, a manifest around an ONNX file with what the file tells."""

from dicomnode.inference.onnx import Shape

CARD = """# {name}

TODO: what the network is, in two sentences. Status: research. It is no medical device.

## Intended use
TODO

## Not for
- TODO: what it never saw.
- Any other finding. A low value does not mean normal.

## Data and licence
TODO: source, licence, how many patients, how they were split.

## Figures
<!-- figures -->
TODO: what was measured, on what, with 95 % intervals and shortcut floors. `dicomnode train` fills this in.
<!-- /figures -->

## Limits
TODO
"""
_MANIFEST = """# The manifest of {name}: fill in what says TODO, then `dicomnode model seal {name}`.
# Every key is described in docs/bundle.schema.json; docs/add-a-model-onnx.md goes through them.
schema_version = 1
name = "{name}"                       # the name of the folder
version = "0.1.0"                     # raise it with every change that you use
kind = "{kind}"                       # classifier or anomaly
title = "TODO: what it finds"         # one line for reports and screens, at most 64 characters
status = "research"                   # research or released
intended_use = "TODO: what it is for, and who reads the result"
not_for = ["TODO: what it must not be used for"]
explanation = "none"                  # ONNX gives no gradients

# Which images it looks at; an empty list asks for nothing. What does not fit is "not applicable", never a negative.
[input]
modalities = ["CR", "DX"]
sop_classes = ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"]  # CR, DX for presentation
body_parts = ["CHEST"]
views = ["PA", "AP"]
excluded_views = ["LATERAL", "LL", "RL"]
min_rows = 128
min_columns = 128

[input.exclude]
PresentationIntentType = ["FOR PROCESSING"]

# From display values in 0..1 (1 is white) to the network's input, in this order. Known steps: center_square,
# center_crop, pad_square, resize, resize_short, letterbox, clip_percentile, scale, normalize (last).
[preprocessing]
voi = {{ method = "header" }}           # the image's own window; or {{ method = "percentile", low = 0.5, high = 99.5 }}
steps = [
    {{ step = "resize", rows = {rows}, columns = {columns}, antialias = true }},{size_note}
    # {{ step = "scale", minimum = 0.0, maximum = 255.0 }},
    # {{ step = "normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }},  # torchvision's ImageNet
]

# What the network takes: read from {model}. minimum and maximum are checked on the reference cases.
[tensor]
channels = {channels}                          # grey is repeated where it is 3
rows = {rows}
columns = {columns}
minimum = 0.0                         # normalize as above: -2.2
maximum = 1.0                         # normalize as above: 2.7
{output}
[training]
data = "TODO: what it was trained on"
licence = "TODO: SPDX name of the data's licence"
data_sha256 = "{zeros}"  # zeros: not known
seed = 0
epochs = 0
libraries = {{}}

[licences]
code = "TODO: SPDX name"
weights = "TODO: SPDX name"

# Inputs with the outputs that must come out again at every load; `dicomnode model seal` makes them.
[reference]
tolerance = 0.001
cases = ["reference/pattern.safetensors", "reference/gradient.safetensors"]
"""
_CLASSIFIER = """
# The network's {count} outputs in order; each is a class below or stands in `ignored`.
[classifier]
activation = "{activation}"              # sigmoid, softmax; none where the network gives probabilities itself
names = [{names}]
ignored = []

[classifier.calibration]
method = "none"                       # or platt, temperature: scale * logit + offset
scale = 1.0
offset = 0.0
{classes}"""
_CLASS = """
[[classifier.classes]]
label = "{label}"
code = {{ value = "TODO", scheme = "SCT", meaning = "TODO" }}  # SNOMED CT: 233604007 is Pneumonia
# site = {{ value = "39607008", scheme = "SCT", meaning = "Lung" }}
priority = "routine"                  # critical, urgent or routine, where the class is suspected

[classifier.classes.operating_point]
threshold = 0.5
rule = "TODO: how the threshold was found"
sensitivity = 0.0                     # measured there, with its 95 % interval
sensitivity_interval = [0.0, 1.0]
specificity = 0.0
specificity_interval = [0.0, 1.0]
measured_on = "TODO: never a test set"
"""
_ANOMALY = """
# The network's one output: the larger, the more unusual.
[anomaly]
score_name = "TODO: reconstruction error, for instance"
unit = "TODO"
threshold = 1.0                       # above it an image is unusual
flag_quantile = 0.985                 # the share of usual images below the threshold
quantiles = [{quantiles}]  # scores at percentiles 0, 1 ... 100 of usual images
measured_on = "TODO: 500 images of the training kind, not trained on"
"""


def manifest_draft(name: str, kind: str, taken: Shape, given: Shape) -> str:
    """Return a draft for a network from `taken` (B, channels, rows, columns) to `given` (B, outputs)."""
    channels, rows, columns = (taken[place] if len(taken) == 4 else None for place in (1, 2, 3))
    count = (given[1] if len(given) == 2 else None) or 1
    is_open = rows is None or columns is None
    return _MANIFEST.format(
        name=name,
        kind=kind,
        model="model.onnx",
        channels=channels or 1,
        rows=rows or 224,
        columns=columns or 224,
        size_note="  # TODO: the file leaves the size open" if is_open else "",
        output=_ANOMALY.format(quantiles=_quantiles()) if kind == "anomaly" else _classifier(count),
        zeros="0" * 64,
    )


def _classifier(count: int) -> str:
    labels = [f"TODO class {number}" for number in range(1, count + 1)]
    return _CLASSIFIER.format(
        count=count,
        activation="sigmoid" if count == 1 else "softmax",
        names=", ".join(f'"{label}"' for label in labels),
        classes="".join(_CLASS.format(label=label) for label in labels),
    )


def _quantiles() -> str:
    return ", ".join(f"{number / 100:.2f}" for number in range(101))
