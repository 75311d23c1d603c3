"""PURE: why git failed, as our own sentence with what to do; what git itself wrote is looked at and never passed on."""

from __future__ import annotations

import re
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

_SECRET_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]+@")
_PROTOCOL: Final = re.compile(r"transport '([A-Za-z0-9+.-]{1,32})' not allowed")

_REMOTE: Final[tuple[tuple[str, str], ...]] = (
    ("Could not resolve host", "its name is unknown here; is the network up"),
    ("Temporary failure in name resolution", "its name is unknown here; is the network up"),
    ("Connection refused", "it refuses the connection; does it serve git"),
    ("timed out", "it did not answer in time; is the network up"),
    ("Network is unreachable", "there is no way to it; is the network up"),
    ("No route to host", "there is no way to it; is the network up"),
    ("Failed to connect", "it cannot be connected to; is the network up"),
    ("Host key verification failed", "its SSH host key is unknown or has changed; connect once with `ssh` and look at it"),
    ("Permission denied (publickey", "it takes none of your SSH keys; is the right one loaded (`ssh-add -l`)"),
    ("Authentication failed", "it refused your name and password; is there a credential helper (git-credential(7))"),
    ("could not read Username", "it wants to know who you are; is there a credential helper (git-credential(7))"),
    ("could not read Password", "it wants a password; is there a credential helper (git-credential(7))"),
    ("terminal prompts disabled", "it wants to know who you are; is there a credential helper (git-credential(7))"),
    ("SSL certificate problem", "its certificate is not trusted; is its authority installed"),
    ("Repository not found", "it has no such repository, or not for you; is its url right"),
    ("does not appear to be a git repository", "there is no repository at its url; is the url right"),
    ("Could not read from remote repository", "it cannot be read; is its url right, and the network up"),
    ("unable to access", "it cannot be reached; is its url right, and the network up"),
    ("early EOF", "the connection broke off; is the network up"),
)


def git_failure(words: tuple[str, ...], status: int, stderr: str, folder: str, remote: str | None) -> RbeesError:
    """The error for a git command that ended with `status`. `words` begin with git's own subcommand, such as `fetch`.

    `remote` names, for commands that use the network, whom they asked.
    """
    refused = _PROTOCOL.search(stderr)
    if refused is not None:
        return _protocol_refused(refused.group(1), folder)
    if "dubious ownership" in stderr:
        message = (
            f"The checkout {folder} belongs to another user; become that user, or trust it as git-config(1) says at safe.directory."
        )
        return RbeesError(ErrorCode.CHECKOUT_UNUSABLE, message)
    if any(hint in stderr for hint in ("not a git repository", "cannot use bare repository", "must be run in a work tree")):
        return no_checkout(folder)
    # `git stash create` ends without a word where another command has the lock.
    is_mute = words[0] == "stash" and not stderr.strip()
    if is_mute or (".lock" in stderr and "File exists" in stderr):
        message = f"Another git command is at work in {folder}, or one died there; wait for it, or remove the lock that it left."
        return RbeesError(ErrorCode.CHECKOUT_CONFLICT, message)
    if "No space left on device" in stderr:
        return RbeesError(ErrorCode.STORAGE_FULL, f"The disk that holds {folder} is full; free some space and try again.")
    for hint, reason in _REMOTE if remote is not None else ():
        if hint in stderr:
            return RbeesError(ErrorCode.REMOTE_UNREACHABLE, f"The git remote {without_secret(remote or '')} failed: {reason}?")
    shown = " ".join(words[:2]) if len(words) > 1 and not words[1].startswith("-") and words[0] == "submodule" else words[0]
    code = ErrorCode.REMOTE_UNREACHABLE if remote is not None else ErrorCode.CHECKOUT_UNUSABLE
    message = f"`git {shown}` failed in {folder} with exit code {status}; run it there by hand to see what it says."
    return RbeesError(code, message)


def no_checkout(folder: str) -> RbeesError:
    """The refusal of a folder that git knows nothing about."""
    message = (
        f"{folder} is no git checkout; name one with `--checkout DIR`, or as `checkout` in `[pool]` of the settings "
        "(an rbees that came from a package is updated with pip)."
    )
    return RbeesError(ErrorCode.CHECKOUT_UNUSABLE, message)


def without_secret(url: str) -> str:
    """A url without the name and the password in it."""
    return _SECRET_IN_URL.sub("", url)


def _protocol_refused(protocol: str, folder: str) -> RbeesError:
    message = f"A remote of {folder} uses the protocol {protocol}, which is refused"
    if protocol in ("file", "http", "git"):
        message += f'; if you trust it, set `git_protocols = ["{protocol}"]` in `[pool]` of the settings.'
    else:
        message += " because it can run any command; correct its url with `git remote set-url`, or in .gitmodules."
    return RbeesError(ErrorCode.FORBIDDEN, message, protocol=protocol)
