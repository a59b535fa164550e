from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import ConfigError, WorkError
from smidgen.export.push import check_push, push_folder

# of the hub client's own call of its HTTP library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "judge"
    (made / "more").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# judge\n", encoding="utf-8")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    (made / "more" / "notes.txt").write_text("notes", encoding="utf-8")
    return made


def test_every_file_arrives(hub: Any, folder: Path):
    assert push_folder(folder, "me/judge", private=True) == f"{hub.url}/me/judge"
    assert hub.repos == {"me/judge": True}
    assert hub.files == {
        ("me/judge", file.relative_to(folder).as_posix()): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_second_upload_replaces_what_changed(hub: Any, folder: Path):
    push_folder(folder, "me/judge")
    (folder / "more" / "notes.txt").write_text("new", encoding="utf-8")
    push_folder(folder, "me/judge")
    assert hub.files["me/judge", "more/notes.txt"] == b"new" and hub.repos == {"me/judge": False}


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_write_is_told(hub: Any, folder: Path, status: int):
    hub.refuse = status
    with pytest.raises(
        ConfigError,
        match=r"refuses this token write access to me/judge: .*\. Use a token with write access, or another "
        r"owner\. .*judge is complete; upload it later with `smidgen export push .*judge --to me/judge`",
    ):
        push_folder(folder, "me/judge")
    assert not hub.files


def test_a_hub_that_fails_is_told(hub: Any, folder: Path):
    hub.refuse = 400
    with pytest.raises(WorkError, match=r"uploaded to http://127\.0\.0\.1:\d+: not with this token\. "):
        push_folder(folder, "me/judge")


def test_without_a_network_the_folder_stays(hub: Any, folder: Path):
    hub.shutdown()
    hub.socket.close()
    with pytest.raises(WorkError, match=r"could not be uploaded to http://127.*is complete; upload it later"):
        push_folder(folder, "me/judge")
    assert (folder / "model.safetensors").exists()


def test_what_cannot_be_pushed_is_refused_before(
    hub: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("judge", "me/judge/more", "me/../x", "-"):
        with pytest.raises(ConfigError, match=r"is not a hub repository; expected owner/name"):
            check_push(name)
    with pytest.raises(ConfigError, match=r"is not a folder with files; export something there first"):
        push_folder(tmp_path / "none", "me/judge")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(ConfigError, match=r"no token to upload me/judge; set HF_TOKEN, or log in once"):
        push_folder(folder, "me/judge")
    with pytest.raises(ConfigError, match=r"none is not a folder with files"):  # nor is a token of use
        push_folder(tmp_path / "none", "me/judge")
    assert not hub.repos
