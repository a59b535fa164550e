"""What every export does before and after: settle what its card tells, write that, and upload the folder."""

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


def finish(
    facts: dict[str, Any], story: dict[str, Any], artefact: str, push: str | None, private: bool, json: bool
) -> None:
    """Write the card, push the folder if that is wanted, and say what was made."""
    from smidgen.export.card import write_card
    from smidgen.export.push import push_folder

    out = facts["out"]
    made = story.get("exports", {}).get(artefact)
    if made and _weights(story["folder"] / made["path"]) != _weights(out):
        story = {**story, "exports": {}}  # the run evaluated another file
    write_card(out, story, artefact=artefact, format=facts["format"])
    if push is not None:
        facts["url"] = push_folder(out, push, private=private)
    if json:
        print_json(facts)
        return
    say(f"{out}: {size(facts['bytes'])} of weights and a model card")
    for warning in facts.get("warnings", ()):
        say(f"warning: {warning}")
    if drift := facts.get("drift"):
        effect = facts["adapter_effect"]
        beside = f"; the adapter itself changes it by {effect['mean_kl']:.3g}" if effect else ""
        say(
            f"drift from the unfused model on {drift['prompts']} prompts: {drift['mean_kl']:.2g} nats on "
            f"average, logits by {drift['max_logit_difference']:.2g} at most, the same first choice at "
            f"{drift['same_top']:.1%} of {drift['positions']} positions{beside}"
        )
    if push is not None:
        say(f"uploaded to {facts['url']}")


def _weights(folder: Path) -> dict[str, str]:
    """Fingerprints of the weight files of a folder."""
    from smidgen.files import sha256_file

    return {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}
