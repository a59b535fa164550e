"""Steps that every export shares: collect the content of the model card, write it, upload the folder."""

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
    """Require --bits or --dequantize for a quantised model.

    There is no safe default: requantising loses accuracy, and plain weights take more room.

    Raises:
        ConfigError: a quantised model has neither option or both, or --dequantize does not apply.
    """
    if dequantize and bits:
        raise ConfigError("--dequantize writes plain weights and --bits quantised ones; give only one")
    quantization = read_config(resolve(model)).get("quantization")
    if quantization and not (bits or dequantize):
        raise ConfigError(
            f"{model} is quantised: give --bits {quantization.get('bits', 4)} to quantise the fused weights "
            "again, or --dequantize to write plain weights"
        )
    if dequantize and not quantization:
        raise ConfigError(f"{model} is not quantised, so --dequantize does nothing; leave it out")


@dataclass(frozen=True)
class Publication:
    """Source of the model card, and upload target of the exported folder.

    Attributes:
        run: run folder of the model; the card shows its figures.
        push: hub repository to upload the folder to, `owner/name`.
        private: whether to create that repository as private.
    """

    run: Path | None = None
    push: str | None = None
    private: bool = False


def card_source(model: str, adapter: Path | None, publication: Publication) -> dict[str, Any]:
    """Return the report behind the card, minimal for a model without a run; checks the upload in advance.

    Raises:
        ConfigError: the run trained another model, or the folder cannot be pushed.
    """
    if publication.private and publication.push is None:
        raise ConfigError("--private needs --push owner/name; give both, or leave --private out")
    if publication.push is not None:
        check_push(publication.push)
    if (run := publication.run) is None:
        return {"model": {"base": model}}
    report = read_json(run / "report.json")
    if _weights(run / "best") != _weights(adapter or resolve(model)):
        raise ConfigError(f"{run} did not train {adapter or model}; name {run / 'best'}, or leave --run out")
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
    """Write an export and its model card atomically, and upload them if requested.

    Args:
        make: writes the export into a folder and returns its facts.
        out: destination folder.
        source: as `card_source` returns it.
        artefact: name of such an export in a run.
        publication: upload target.
    """
    push = publication.push
    with atomic_folder(out) as folder:
        export = make(folder)
        made = source.get("exports", {}).get(artefact, {})
        if made and _weights(source["folder"] / made["path"]) != _weights(folder):
            made = {}  # the run evaluated other weights, so its figures do not apply
        drift = export.drift and export.drift.to_json()
        report = {**source, "exports": {artefact: {**made, "drift": drift}}}
        write_card(folder, report, artefact=artefact, format=export.format, place=push or out.resolve().name)
        if push is not None:
            refuse_private(folder)
    url = None if push is None else push_folder(out, push, private=publication.private)
    return Published(export, out, url)


def _weights(folder: Path) -> list[str]:
    """Return the hashes of a folder's weight files, whatever their names."""
    return sorted(sha256_file(file) for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
