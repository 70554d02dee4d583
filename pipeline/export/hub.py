"""Upload an exported folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from diva_grpo.pipeline.export.card import card_beside
from diva_grpo.schemas.exceptions import ConfigError, TargetError, first_line


def check_token() -> None:
    """Check that there is a token for the hub before an export, so that it does not fail at the end.

    Raises:
        ConfigError: there is no token.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload a folder that `export` has written: first the card, then the rows (by `datasets`).

    Args:
        folder: a folder written with `format="hf"`.
        repo: the data set's name on the hub, `owner/name`.
        private: whether the data set is private, if it does not exist yet.

    Returns:
        The URL of the data set.

    Raises:
        ConfigError: there is no token.
        TargetError: the hub cannot be reached, or refuses the upload.
    """
    import datasets
    from huggingface_hub import DatasetCard, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    check_token()
    try:
        address = HfApi().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        card = folder / "README.md"
        DatasetCard.load(card if card.exists() else card_beside(folder)).push_to_hub(
            repo, repo_type="dataset"
        )
        datasets.load_dataset(str(folder)).push_to_hub(repo, private=private)
    except (
        HfHubHTTPError,
        HFValidationError,
        datasets.exceptions.DatasetsError,
        OSError,
        ValueError,
    ) as error:
        raise TargetError(
            f"{folder} is written, but {repo} could not be uploaded: {first_line(error)}"
        ) from error
    return str(address)
