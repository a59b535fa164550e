"""What every export does before and after: settle what its card tells, write that, and upload the folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smidgen.cli.console import print_json, say, size
from smidgen.errors import ConfigError


def check_quantization(model: str, bits: int | None, dequantize: bool) -> None:
    """Have a user say what becomes of quantised weights: quantising again loses, not doing so costs room.

    Raises:
        ConfigError: nothing is said of a quantised model, or too much.
    """
    from smidgen.models.load import read_config, resolve

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


def begin(
    model: str, adapter: Path | None, run: Path | None, push: str | None, private: bool
) -> dict[str, Any]:
    """What a card tells of the run, or of a model without one; refuses what would fail at the end.

    Raises:
        ConfigError: the run trained something else, or the folder cannot be pushed.
    """
    from smidgen.files import read_json
    from smidgen.models.load import resolve

    if private and push is None:
        raise ConfigError("--private is for --push owner/name; give both")
    if push is not None:
        from smidgen.export.push import check_push

        check_push(push)
    if run is None:
        return {"model": {"base": model}}
    story = read_json(run / "report.json")
    if _weights(run / "best") != _weights(adapter or resolve(model)):
        raise ConfigError(
            f"{run} trained something else than {adapter or model}; name {run / 'best'}, or leave --run out"
        )
    return {**story, "folder": run}


def ship(
    make: Callable[[Path], dict[str, Any]],
    out: Path,
    story: dict[str, Any],
    artefact: str,
    push: str | None,
    private: bool,
) -> dict[str, Any]:
    """Have an export and its card written, which appear together or not at all; push them if that is wanted.

    Args:
        make: writes the export into a folder and returns its facts, `format` among them.
        out: where the folder is to stand.
        story: what `begin` returned.
        artefact: what the run calls such an export.
        push: the repository to upload it to.
        private: whether that is made for one's own eyes.

    Returns:
        What `make` did, with `out`, and with `url` of what was pushed.
    """
    from smidgen.export.card import write_card
    from smidgen.export.push import push_folder, refuse_private
    from smidgen.files import atomic_folder

    with atomic_folder(out) as folder:
        facts = {**make(folder), "out": out}
        made = story.get("exports", {}).get(artefact, {})
        if made and _weights(story["folder"] / made["path"]) != _weights(folder):
            made = {}  # the run evaluated another file
        story = {**story, "exports": {artefact: {**made, "drift": facts.get("drift")}}}
        write_card(folder, story, artefact=artefact, format=facts["format"], place=push or out.resolve().name)
        if push is not None:
            refuse_private(folder)
    if push is not None:
        facts["url"] = push_folder(out, push, private=private)
    return facts


def tell(facts: dict[str, Any], json: bool) -> None:
    """Say what was made."""
    if json:
        print_json(facts)
        return
    say(f"{facts['out']}: {size(facts['bytes'])} of weights and a model card")
    tell_drift(facts)
    if url := facts.get("url"):
        say(f"uploaded to {url}")


def tell_drift(facts: dict[str, Any]) -> None:
    """Say how far an export is from what it was made of, and what to know of it."""
    from smidgen.export.drift import in_words

    for warning in facts.get("warnings", ()):
        say(f"warning: {warning}")
    if drift := facts.get("drift"):
        effect = facts.get("adapter_effect")
        beside = f"; the adapter itself changes it by {effect['mean_kl']:.3g}" if effect else ""
        say(f"drift from the model that it was made from, {in_words(drift)}{beside}")


def _weights(folder: Path) -> list[str]:
    """Fingerprints of the weight files of a folder, whatever they are called."""
    from smidgen.files import sha256_file

    return sorted(sha256_file(file) for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
