"""A data set in CLIP_benchmark's webdataset layout on the Hugging Face hub, copied into the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from stillroom.errors import ConfigError, DataError

PREFIX = "hf-hub:"  # as open_clip writes it for models


def is_hub_name(name: str) -> bool:
    """Return whether a task's name means a data set on the hub: "hf-hub:clip-benchmark/wds_vtab-cifar10"."""
    return name.startswith(PREFIX)


def hub_folder(name: str, split: str = "test") -> Path:
    """Return the local copy of a data set on the hub; only text files and the split's tars are fetched.

    Raises:
        ConfigError: not ORGANISATION/NAME.
        DataError: it cannot be fetched, and is not there from an earlier time.
    """
    from huggingface_hub import snapshot_download

    repository = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"'{name}' is no data set on the hub; write {PREFIX}ORGANISATION/NAME")
    wanted = ["*.txt", f"{split}/*.txt", f"{split}/*.tar"]
    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:  # noqa: BLE001 - the hub's client raises its own kinds and those of its transport
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"'{name}' cannot be fetched ({said}); fetch it where there is a network and give its folder as the task"
        ) from None
