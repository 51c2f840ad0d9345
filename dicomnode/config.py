"""Settings: a TOML file and `DICOMNODE_...` variables become one frozen object.

Every default stands here and nowhere else. An unknown key is an error that names file, table, key and the nearest
known one. A variable names table and key with two underscores between: `DICOMNODE_RECEIVER__PORT=11112`.
"""

import difflib
import os
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dicomnode.errors import ConfigError

FILE_NAME = "dicomnode.toml"
ENV_PREFIX = "DICOMNODE_"
AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0)]


class Table(BaseModel):
    """A table of the file: frozen, and no key that we do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(Table):
    """Who this node is."""

    ae_title: AETitle = "DICOMNODE"
    data_dir: Path = Field(default=Path("dicomnode-data"), description="spool and, by default, the database")
    station_name: str = Field(default="DICOMNODE", max_length=16, description="written into the results")
    serial_number: str = Field(default="1", max_length=64, description="one per installation, written into the results")


class DatabaseSettings(Table):
    """Where the rows live."""

    url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in data_dir")
    keep_workflows_days: float = Field(default=30, gt=0, description="then the engine forgets finished work; rows stay")


class ReceiverSettings(Table):
    """C-STORE from modalities."""

    host: str = "0.0.0.0"  # noqa: S104  modalities are other machines; the peers table says which
    port: Port = 11112
    max_pdu_bytes: int = Field(default=131072, ge=4096, le=1 << 20)
    max_associations: int = Field(default=100, ge=1)
    max_dataset_bytes: int = Field(default=4 << 30, ge=1 << 20, description="a larger object is refused")
    network_timeout_s: Seconds = Field(default=60, description="an association without a byte for so long is aborted")
    acse_timeout_s: Seconds = Field(default=30)
    min_free_bytes: int = Field(default=1 << 30, ge=0, description="below it C-STORE answers 0xA700")
    max_queued_studies: int = Field(default=100_000, ge=1, description="from it on new studies are answered 0xA700")
    accept_unknown_sop_classes: bool = Field(default=True, description="Storage SOP Classes that pydicom does not know")
    accept_unknown_peers: bool = Field(default=False, description="any calling AE title may store")


class StudySettings(Table):
    """When a study is complete."""

    quiet_period_s: Seconds = Field(default=30, description="no instance for so long closes the study")
    sweep_interval_s: float = Field(default=0.5, gt=0, le=60)


class ModelSettings(Table):
    """Which bundles look at a study."""

    directories: tuple[Path, ...] = Field(default=(), description="folders of bundles beside our own")
    active: tuple[str, ...] = ("chest_xray_pneumonia", "chest_xray_anomaly")


class AnalysisSettings(Table):
    """How studies are analyzed."""

    batch_images: int = Field(default=8, ge=1, le=256)
    batch_wait_ms: float = Field(default=30, ge=0, le=1000)
    threads: int = Field(default=0, ge=0, description="of one forward pass; 0: all cores")
    backend: Literal["auto", "eager", "channels_last", "bfloat16", "compiled", "onnxruntime"] = Field(
        default="auto", description="what runs a network; auto: the fastest whose results do not differ"
    )
    max_image_pixels: int = Field(default=200_000_000, ge=1, description="a larger image is not decoded")
    decode_deadline_s: float = Field(default=60, gt=0, le=3600, description="an image that takes longer is not decoded")
    decode_memory_mib: int = Field(default=1024, ge=64, description="an image that takes more to decode is not decoded")
    max_attempts: int = Field(default=5, ge=1, description="a study that fails so often is FAILED")
    explanations: Literal["suspected", "all", "none"] = Field(
        default="suspected", description="for which findings a map is kept of where they come from"
    )


class ResultSettings(Table):
    """Which objects the results become."""

    mode: Literal["triage", "research"] = "triage"
    when_unusual: Literal["show", "lower", "suppress"] = Field(
        default="show", description="findings of an image unlike the training images: shown, not urgent, or withheld"
    )


class DriftSettings(Table):
    """How scores are watched, by source and bundle."""

    interval_s: float = Field(default=3600, gt=0, description="between two measurements")
    window_images: int = Field(default=500, ge=10, le=100_000, description="the last so many images are compared")
    window_days: float = Field(default=30, gt=0, description="older images are not looked at")
    minimum_images: int = Field(default=200, ge=10, description="fewer have no population stability index")
    watch_psi: float = Field(default=0.1, gt=0)
    alarm_psi: float = Field(default=0.25, gt=0)


class DeliverySettings(Table):
    """How results reach the PACS."""

    first_retry_s: float = Field(default=5, gt=0)
    max_retry_s: float = Field(default=600, gt=0)
    give_up_after_days: float = Field(default=7, gt=0)
    connect_timeout_s: float = Field(default=10, gt=0)
    network_timeout_s: float = Field(default=60, gt=0)
    objects_an_association: int = Field(default=50, ge=1, le=1000)
    circuit_failures: int = Field(default=3, ge=1, description="so many in a row, and a destination is only probed")
    longest_probe_s: float = Field(default=60, gt=0, description="a destination that is away is probed so often")
    commitment_wait_s: float = Field(default=1, ge=0, description="for its result on the association that asked for it")
    commitment_timeout_s: float = Field(default=300, gt=0, description="without a result it is asked for again")


class RetentionSettings(Table):
    """How long files stay; rows stay for ever, and nothing goes before its results are delivered."""

    keep_days: float = Field(default=30, gt=0, description="received images, counted from the end of their study")
    keep_evidence_days: float = Field(default=365, gt=0, description="results, as they were sent")
    target_free_bytes: int = Field(
        default=2 << 30, ge=0, description="with less free space the oldest studies go first"
    )
    quarantine_days: float = Field(default=90, gt=0, description="objects that could not be understood")


class LogSettings(Table):
    """What is written to standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    as_json: bool = Field(default=False, alias="json")


class PeerSettings(Table):
    """Another application entity: a modality, a PACS, a workstation."""

    ae_title: AETitle
    host: str = Field(default="", description="name or address; needed where we send")
    port: Port = 0
    sends: bool = Field(default=False, description="may store studies here")
    addresses: tuple[str, ...] = Field(default=(), description="networks it may call from, 10.1.0.0/16; empty: any")
    quiet_period_s: Seconds | None = Field(default=None, description="instead of study.quiet_period_s")
    closes_by_commitment: bool = Field(
        default=False, description="a storage commitment request for all instances of a study closes it"
    )
    study_root: bool = Field(default=False, description="can be asked by C-FIND how many instances a study has")
    destination: bool = Field(default=False, description="results are sent there")
    summary: bool = Field(default=True, description="send the AI summary picture too")
    commitment: bool = Field(default=False, description="it can commit to storage; delivered then means committed")
    stow_url: str = Field(default="", description="results go there by STOW-RS instead of C-STORE")
    stow_token_file: Path | None = Field(default=None, description="a file with the bearer token")
    stow_ca_file: Path | None = Field(
        default=None, description="certificates that sign the server's; else the system's"
    )

    @field_validator("addresses")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        import ipaddress  # noqa: PLC0415

        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value

    @field_validator("stow_url")
    @classmethod
    def _is_web_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", value):
            raise ValueError("must look like https://host/dicom-web, without user, password or query")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _commits_over_dimse_only(self) -> typing.Self:
        if self.stow_url and self.commitment:
            raise ValueError("commitment goes with C-STORE; a server of STOW-RS knows none")
        return self


class RouteSettings(Table):
    """Which studies go where: every key that is there must match; what matches several values names them in a list."""

    source_ae_title: tuple[str, ...] = Field(default=(), description="who sent the study")
    modality: tuple[str, ...] = Field(default=(), description="of one of its series")
    finding: tuple[str, ...] = Field(default=(), description="a label that is suspected")
    priority: Literal["critical", "urgent", "routine"] = Field(default="routine", description="at least so urgent")
    destinations: tuple[str, ...] = Field(min_length=1, description="names of [peers.NAME] tables")

    @field_validator("source_ae_title", "modality", "finding", "destinations", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    node: NodeSettings = NodeSettings()
    database: DatabaseSettings = DatabaseSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    study: StudySettings = StudySettings()
    models: ModelSettings = ModelSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    results: ResultSettings = ResultSettings()
    drift: DriftSettings = DriftSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    log: LogSettings = LogSettings()
    peers: dict[str, PeerSettings] = {}
    routes: tuple[RouteSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file (given as init arguments); nothing else is read."""
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the rows."""
        return self.database.url or f"sqlite:///{self.node.data_dir / 'dicomnode.sqlite'}"

    @property
    def destinations(self) -> dict[str, PeerSettings]:
        """Peers that results may go to, by name: those that routes name, or without routes those marked so."""
        routed = {name for route in self.routes for name in route.destinations}
        return {n: peer for n, peer in self.peers.items() if (n in routed if self.routes else peer.destination)}

    def quiet_period_s(self, calling_ae_title: str) -> float:
        """Return the quiet period of a source."""
        for peer in self.peers.values():
            if peer.ae_title == calling_ae_title and peer.quiet_period_s is not None:
                return peer.quiet_period_s
        return self.study.quiet_period_s


def load(path: Path | None = None) -> Settings:
    """Return the settings of `path` (else `$DICOMNODE_CONFIG`, else `dicomnode.toml` here, if there is one).

    Relative paths in the file count from its folder. Raises `ConfigError` that says what to change.
    """
    named = path or (Path(os.environ["DICOMNODE_CONFIG"]) if "DICOMNODE_CONFIG" in os.environ else None)
    file = named or Path(FILE_NAME)
    if named is not None and not file.is_file():
        raise ConfigError(f"{file}: there is no such file; `dicomnode init` writes one")
    values = _read(file) if file.is_file() else {}
    _check_environment()
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(error, file) for error in exc.errors())) from None
    _check_routes(settings, file)
    return _with_absolute_paths(settings, file.resolve().parent)


def _read(file: Path) -> dict[str, typing.Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: not valid TOML: {exc}") from None


def _check_environment() -> None:
    """Refuse a variable whose table is unknown; pydantic-settings would ignore it."""
    known = {*Settings.model_fields, "config", "test", "failpoint"}
    for name in os.environ:
        table = name.removeprefix(ENV_PREFIX).lower().split("__")[0]
        if name.startswith(ENV_PREFIX) and table not in known and not name.startswith(f"{ENV_PREFIX}TEST_"):
            raise ConfigError(
                f"environment: {name}: there is no table {table!r}{_nearest(table, Settings.model_fields)}"
            )


def _check_routes(settings: Settings, file: Path) -> None:
    """Refuse a route to a peer that is not there: its results would wait for ever."""
    for number, route in enumerate(settings.routes, start=1):
        for name in route.destinations:
            if name not in settings.peers:
                raise ConfigError(
                    f"{file}: [[routes]] number {number}, destinations: there is no [peers.{name}]"
                    f"{_nearest(name, settings.peers)}"
                )


def _explain(error: ErrorDetails, file: Path) -> str:
    where = [str(part) for part in error["loc"]]
    table, key = ".".join(where[:-1]), where[-1]
    variable = ENV_PREFIX + "__".join(where).upper()
    place = (
        f"environment: {variable}"
        if variable in os.environ
        else f"{file}: [{table}] {key}"
        if table
        else f"{file}: {key}"
    )
    if error["type"] == "extra_forbidden":
        what = "there is no such table" if not table else "there is no such key"
        return f"{place}: {what}{_nearest(key, _known_keys(where[:-1]))}"
    if error["type"] == "missing":
        return f"{place}: is missing and has no default"
    shown = repr(error["input"])
    if "://" in shown:  # may hold a password or a token
        return f"{place}: {error['msg']}"
    return f"{place} = {shown}: {error['msg']}"


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    keys = sorted(known)
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(keys)}"


def _known_keys(path: list[str]) -> list[str]:
    model: typing.Any = Settings
    for part in path:
        if typing.get_origin(model) in (dict, tuple):
            model = typing.get_args(model)[typing.get_origin(model) is dict]
            continue
        model = model.model_fields[part].annotation
        if isinstance(model, types.UnionType):
            model = typing.get_args(model)[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    node = settings.node.model_copy(update={"data_dir": folder / settings.node.data_dir.expanduser()})
    directories = tuple(folder / path.expanduser() for path in settings.models.directories)
    models = settings.models.model_copy(update={"directories": directories})
    peers = {name: _with_absolute_files(peer, folder) for name, peer in settings.peers.items()}
    return settings.model_copy(update={"node": node, "models": models, "peers": peers})


def _with_absolute_files(peer: PeerSettings, folder: Path) -> PeerSettings:
    files = {"stow_token_file": peer.stow_token_file, "stow_ca_file": peer.stow_ca_file}
    return peer.model_copy(update={key: folder / path.expanduser() for key, path in files.items() if path})
