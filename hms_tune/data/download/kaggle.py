"""The competition's archive on Kaggle: who asks, where it lies, and why Kaggle might say no.

The client's SDK is used, not its ``kaggle`` package: importing that one signs in, prints, makes a folder and
may end the process. Credentials are looked for where the client looks, in its order. The SDK is asked for
tokens and sign-ins. It does not know the older key: where that lies is written down here, and a test compares
it with what the installed ``kaggle`` takes.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hms_tune.config.settings import expanded
from hms_tune.errors import DownloadError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

COMPETITION = "hms-harmful-brain-activity-classification"
DATA_PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}/data"
RULES_PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
SETTINGS_PAGE = "https://www.kaggle.com/settings/api"

_USER_AGENT = "hms-tune"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks Kaggle: an access token, or a user name and key.

    Parameters
    ----------
    source : where they were found, for messages
    token : access token
    username, key : the older API key
    """

    source: str
    token: str | None = None
    username: str | None = None
    key: str | None = None

    def __repr__(self) -> str:  # secrets stay out of logs
        return f"Credentials(source={self.source!r})"


def find_credentials() -> Credentials:
    """Look for credentials where Kaggle's own client does.

    In this order: ``KAGGLE_API_TOKEN`` and ``~/.kaggle/access_token``; ``KAGGLE_USERNAME`` with
    ``KAGGLE_KEY``, and ``kaggle.json``; the sign-in of ``kaggle auth login``.

    Raises
    ------
    DownloadError
        If there are none, if ``kaggle.json`` cannot be used, or if the client is not installed.
    """
    sdk = _sdk()
    token, source = sdk.get_access_token_from_env()
    if token:
        return Credentials("~/.kaggle/access_token" if source == "access_token" else source, token=token)
    if found := _api_key():
        return found
    if found := _signed_in(sdk):
        return found
    raise DownloadError(
        "no Kaggle credentials are found",
        hint=f'Click "Generate New Token" on {SETTINGS_PAGE}, and set KAGGLE_API_TOKEN to it or save it as '
        "~/.kaggle/access_token; or run `kaggle auth login`",
    )


def open_archive(credentials: Credentials) -> PreparedRequest:
    """Ask Kaggle for the archive of the whole competition.

    Returns
    -------
    The request that fetches its bytes, wherever Kaggle keeps them, with no body read yet. Its address may
    expire after some hours; ask again then.

    Raises
    ------
    DownloadError
        If Kaggle refuses: bad credentials, rules not accepted, no such competition.
    requests.RequestException
        If Kaggle cannot be reached or fails.
    """
    import requests
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    request = ApiDownloadDataFilesRequest()
    request.competition_name = COMPETITION
    client = _sdk().KaggleClient(
        username=credentials.username,
        password=credentials.key,
        api_token=credentials.token,
        user_agent=_USER_AGENT,
    )
    with client:
        try:
            response: Response = client.competitions.competition_api_client.download_data_files(request)
        except requests.HTTPError as error:
            raise _refusal(error, credentials) from error
        response.close()  # the bytes are asked for from where an earlier download stopped
        return response.request


def _sdk() -> Any:
    try:
        import kagglesdk
    except ImportError as error:
        raise DownloadError(
            "Kaggle's client is not installed",
            hint=f'pip install "hms-tune[kaggle]", or download the archive from {DATA_PAGE} '
            "and give it with --from-zip",
        ) from error
    return kagglesdk


def _api_key() -> Credentials | None:
    username, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if username and key:
        return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    path = _config_folder() / "kaggle.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        username, key = username or content.get("username"), key or content.get("key")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise _unusable(path) from error
    if not (isinstance(username, str) and isinstance(key, str) and username and key):
        raise _unusable(path)
    return Credentials(str(path), username=username, key=key)


def _unusable(path: Path) -> DownloadError:
    hint = f"Save a new kaggle.json from {SETTINGS_PAGE} there, or set KAGGLE_API_TOKEN to a token instead"
    return DownloadError('not {"username": …, "key": …}', where=path, hint=hint)


def _config_folder() -> Path:
    if configured := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(configured)
    folder = expanded(
        "~/.kaggle",
        where="KAGGLE_CONFIG_DIR",
        hint="Set it to the folder of kaggle.json, or set KAGGLE_API_TOKEN to a token",
    )
    if sys.platform.startswith("linux") and not folder.exists():
        return Path(os.environ.get("XDG_CONFIG_HOME") or folder.with_name(".config")) / "kaggle"
    return folder


def _signed_in(sdk: Any) -> Credentials | None:
    """The sign-in of ``kaggle auth login``, its token renewed if need be."""
    import requests

    with sdk.KaggleClient(user_agent=_USER_AGENT) as client:
        stored = sdk.KaggleCredentials.load(client=client)
        if stored is None:
            return None
        try:
            token = stored.get_access_token()
        except requests.HTTPError:
            return None
        except requests.RequestException as error:
            what = f"Kaggle cannot be reached to renew the sign-in ({type(error).__name__})"
            raise DownloadError(what, hint="Check the network and run the same command again") from error
    return Credentials("the sign-in of `kaggle auth login`", token=token) if token else None


def _refusal(error: Any, credentials: Credentials) -> Exception:
    """What a refusal means to the person who asked; the error itself where trying again may help."""
    status, said = error.response.status_code, " ".join(str(error).split())[:200]
    if status == HTTPStatus.UNAUTHORIZED:
        hint = f'Click "Generate New Token" on {SETTINGS_PAGE} and put it in their place'
        return DownloadError("Kaggle does not accept the credentials", where=credentials.source, hint=hint)
    if status == HTTPStatus.FORBIDDEN:
        return DownloadError(
            f"Kaggle does not let this account download the competition ({said})",
            hint=f'Sign in, accept the rules on {RULES_PAGE} ("I Understand and Accept"), and run this again',
        )
    if status == HTTPStatus.NOT_FOUND:
        hint = f"See {DATA_PAGE}; the archive from there can be given with --from-zip"
        return DownloadError(f"Kaggle does not have the competition's archive ({said})", hint=hint)
    passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    return error if passing else DownloadError(f"Kaggle refuses: {said}", hint=f"See {DATA_PAGE}")
