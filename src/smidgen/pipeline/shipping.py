"""What every export does before and after: collect what its card says, write that, upload the folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from smidgen.errors import ConfigError
from smidgen.export.card import write_card
from smidgen.export.facts import Export
from smidgen.export.push import check_push, push_folder, refuse_private
from smidgen.files import atomic_folder, read_json, sha256_file
from smidgen.models.load import read_config, resolve

AnyExport = TypeVar("AnyExport", bound=Export, covariant=True)


def check_quantization(model: str, bits: int | None, dequantize: bool) -> None:
    """Have a user say what becomes of quantised weights: quantising again loses, not doing so costs room.

    Raises:
        ConfigError: nothing is said of a quantised model, or too much.
    """
    if dequantize and bits:
        raise ConfigError("--dequantize writes plain weights and --bits quantised ones; give one of them")
    quantization = read_config(resolve(model)).get("quantization")
    if quantization and not (bits or dequantize):
        raise ConfigError(
            f"{model} is quantised: give --bits {quantization.get('bits', 4)} to quantise the sum again, or "
            "--dequantize to write plain weights"
        )
    if dequantize and not quantization:
        raise ConfigError(f"{model} is not quantised, so there is nothing to undo; leave --dequantize out")


@dataclass(frozen=True)
class Publication:
    """What a model card is made from, and where the exported folder is uploaded.

    Attributes:
        run: the run folder that the model came from, whose figures the card shows.
        push: a repository of the hub, `owner/name`, to upload the folder to.
        private: whether that repository is private if it is made now.
    """

    run: Path | None = None
    push: str | None = None
    private: bool = False


def card_source(model: str, adapter: Path | None, publication: Publication) -> dict[str, Any]:
    """What a card says of the run, or of a model without one; refuses what would fail at the end.

    Raises:
        ConfigError: the run trained something else, or the folder cannot be pushed.
    """
    if publication.private and publication.push is None:
        raise ConfigError("--private is for --push owner/name; give both")
    if publication.push is not None:
        check_push(publication.push)
    if (run := publication.run) is None:
        return {"model": {"base": model}}
    report = read_json(run / "report.json")
    if _weights(run / "best") != _weights(adapter or resolve(model)):
        raise ConfigError(
            f"{run} trained something else than {adapter or model}; name {run / 'best'}, or leave --run out"
        )
    return {**report, "folder": run}


@dataclass(frozen=True)
class Published(Generic[AnyExport]):
    """An export that was written with its card.

    Attributes:
        export: what the format's own exporter returned.
        out: the folder.
        url: where it was uploaded; None if it was not.
    """

    export: AnyExport
    out: Path
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the facts of the export with `out`, and with `url` if it was uploaded."""
        facts = {**self.export.to_json(), "out": self.out}
        return facts if self.url is None else {**facts, "url": self.url}


def publish(
    make: Callable[[Path], AnyExport],
    out: Path,
    source: dict[str, Any],
    artefact: str,
    publication: Publication,
) -> Published[AnyExport]:
    """Write an export and its card, which appear together or not at all, and upload them if asked to.

    Args:
        make: writes the export into a folder and returns its facts.
        out: where the folder is to stand.
        source: as `card_source` returns it.
        artefact: what a run calls such an export.
        publication: where it is uploaded.
    """
    push = publication.push
    with atomic_folder(out) as folder:
        export = make(folder)
        made = source.get("exports", {}).get(artefact, {})
        if made and _weights(source["folder"] / made["path"]) != _weights(folder):
            made = {}  # the run evaluated another file
        drift = export.drift and export.drift.to_json()
        report = {**source, "exports": {artefact: {**made, "drift": drift}}}
        write_card(folder, report, artefact=artefact, format=export.format, place=push or out.resolve().name)
        if push is not None:
            refuse_private(folder)
    url = None if push is None else push_folder(out, push, private=publication.private)
    return Published(export, out, url)


def _weights(folder: Path) -> list[str]:
    """Fingerprints of the weight files of a folder, whatever they are called."""
    return sorted(sha256_file(file) for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
