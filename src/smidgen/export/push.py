"""Upload a finished folder to the Hugging Face hub, or to whatever `HF_ENDPOINT` names."""

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from smidgen.errors import ConfigError, WorkError
from smidgen.models.adapter import CONFIG, read_adapter_config

REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REFUSED = (401, 403)


def check_push(repo: str) -> None:
    """Refuse what an upload would be refused for, before any work is done for it.

    Raises:
        ConfigError: the name is no `owner/repo`, or there is no token.
    """
    if not REPO.fullmatch(repo):
        raise ConfigError(f"'{repo}' is no repository of the hub; expected owner/name, as me/my-judge")
    if not get_token():
        raise ConfigError(
            f"there is no token to upload {repo} with; set HF_TOKEN, or log in once with `hf auth login`"
        )


def refuse_private(folder: Path) -> None:
    """Refuse a folder of an adapter whose description names places on this machine, such as its base's.

    Nobody else could load the base from there, and who uploads an adapter hardly means to show them.

    Raises:
        ConfigError: names the key and the place.
        ModelError: the description is no JSON object.
    """
    if not (folder / CONFIG).is_file():
        return
    for name, value in read_adapter_config(folder).items():
        if isinstance(value, str) and value.startswith(("/", "~")):
            raise ConfigError(
                f"'{name}' in {CONFIG} is {value}, a place on this machine that nobody else should see or "
                "could load; export the adapter again with --model owner/name, the base's name on the hub"
            )


def push_folder(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload every file of a folder to a repository, made if it is not there; return its address.

    Raises:
        ConfigError: as in `check_push` and `refuse_private`, or the hub does not let this token write there.
        WorkError: the hub cannot be reached or fails; what was uploaded by then is no commit.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigError(f"{folder} is no folder with files in it; export something there first")
    check_push(repo)
    refuse_private(folder)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    hub = HfApi(endpoint=endpoint)
    again = f"{folder} is whole; upload it later with `smidgen export push {folder} --to {repo}`"
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with smidgen")
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in _REFUSED:
            raise ConfigError(
                f"{hub.endpoint} does not let this token write to {repo}: {_reason(error)}. Use a token with "
                f"write access, or another owner. {again}"
            ) from error
        raise WorkError(
            f"{repo} could not be uploaded to {hub.endpoint}: {_reason(error)}. {again}"
        ) from error
    except Exception as error:  # the hub client lets the errors of several libraries through
        raise WorkError(
            f"{repo} could not be uploaded to {hub.endpoint}: {_reason(error)}. {again}"
        ) from error
    return f"{hub.endpoint}/{repo}"


def _reason(error: BaseException) -> str:
    """What the hub said, or else the first line of an error of its client and of what caused that."""
    said = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    first = said.splitlines()[0].rstrip(".:")
    return (
        f"{first}: {_reason(error.__cause__)}"
        if isinstance(error, RuntimeError) and error.__cause__
        else first
    )
