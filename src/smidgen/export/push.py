"""Upload an exported folder to the Hugging Face hub, or to the server that `HF_ENDPOINT` names."""

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
    """Check the repository name and token before any work is done for an upload.

    Raises:
        ConfigError: the name is not `owner/repo`, or there is no token.
    """
    if not REPO.fullmatch(repo):
        raise ConfigError(f"'{repo}' is not a hub repository; expected owner/name, such as me/my-judge")
    if not get_token():
        raise ConfigError(
            f"there is no token to upload {repo}; set HF_TOKEN, or log in once with `hf auth login`"
        )


def refuse_private(folder: Path) -> None:
    """Refuse an adapter folder whose `adapter_config.json` contains local paths, such as its base's.

    Nobody else could load the base from there, and the user probably does not want to publish local paths.

    Raises:
        ConfigError: names the key and the path.
        ModelError: `adapter_config.json` is not a JSON object.
    """
    if not (folder / CONFIG).is_file():
        return
    for name, value in read_adapter_config(folder).items():
        if isinstance(value, str) and value.startswith(("/", "~")):
            raise ConfigError(
                f"'{name}' in {CONFIG} is {value}, a local path that nobody else can load and that should "
                "not be published; export the adapter again with --model owner/name, the base's hub name"
            )


def push_folder(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload every file of a folder to a repository, created if it does not exist; return its URL.

    Raises:
        ConfigError: as in `check_push` and `refuse_private`, or the hub refuses write access to this token.
        WorkError: the hub cannot be reached or fails; no commit was made.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigError(f"{folder} is not a folder with files; export something there first")
    check_push(repo)
    refuse_private(folder)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    hub = HfApi(endpoint=endpoint)
    again = f"{folder} is complete; upload it later with `smidgen export push {folder} --to {repo}`"
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with smidgen")
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in _REFUSED:
            raise ConfigError(
                f"{hub.endpoint} refuses this token write access to {repo}: {_reason(error)}. Use a token "
                f"with write access, or another owner. {again}"
            ) from error
        raise WorkError(
            f"{repo} could not be uploaded to {hub.endpoint}: {_reason(error)}. {again}"
        ) from error
    except Exception as error:  # the hub client raises errors of several libraries
        raise WorkError(
            f"{repo} could not be uploaded to {hub.endpoint}: {_reason(error)}. {again}"
        ) from error
    return f"{hub.endpoint}/{repo}"


def _reason(error: BaseException) -> str:
    """The hub's message, or the first line of the client's error and of its cause."""
    message = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    first = message.splitlines()[0].rstrip(".:")
    return (
        f"{first}: {_reason(error.__cause__)}"
        if isinstance(error, RuntimeError) and error.__cause__
        else first
    )
