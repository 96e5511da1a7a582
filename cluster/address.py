"""Addresses of stores and files: a path, `file:///directory` or `scheme://place/prefix`, and one spelling for each place.

What is not certain is refused instead of guessed: white space at an end, control characters, escapes that hide a slash, a
scheme with one slash. So two addresses that differ are never one place by accident, and messages name what is written.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from cluster.stores.errors import StoreError
from cluster.texts import one_line

SHOWN = 240  # most characters of an address in a message
_LONGEST_NAME = 255  # bytes of a file's name
_LONGEST_PATH = 3500  # bytes of a directory; the system's limit is 4,096, of which a run's objects need some
_LONGEST_PREFIX = 700  # bytes; keys of S3 have at most 1,024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def shown(text: str) -> str:
    """An address for a message: one line, without its middle if it is long."""
    return one_line(text, SHOWN)


def split(text: str) -> tuple[str, str]:
    """The scheme of an address in lower case, "" for a path, and what follows the colon, or the path.

    Raises a `StoreError` for characters that no address may have.
    """
    if (reason := _unusable(text)) is not None:
        raise StoreError(f"{shown(text)}: {reason}")
    found = _SCHEME.fullmatch(text)
    return (found[1].lower(), found[2]) if found else ("", text)


def _unusable(text: str) -> str | None:
    if text != text.strip():
        return "begins or ends with white space; remove it"
    control = next((c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None)
    if control is not None:
        return f"has the control character {control!r}; remove it"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "has bytes that are not UTF-8; rename it"
    return None


def directory(text: str) -> Path:
    """The directory, or file, of a path or a file:// address, absolute and without `..`; `~` is the home directory."""
    scheme, rest = split(text)
    path = _decoded(text, rest) if scheme == "file" else _expanded(text)
    try:
        found = os.path.realpath(path) if ".." in PurePosixPath(path).parts else str(Path(path).absolute())
    except OSError as error:  # a working directory that has been deleted, a loop of links
        raise StoreError(f"{shown(text)}: {error.strerror}; give an absolute path") from None
    found = "/" + found.lstrip("/")
    if len(os.fsencode(found)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in found.split("/")):
        raise StoreError(f"{shown(text)}: the name is too long; give a shorter one")
    return Path(found)


def _decoded(text: str, rest: str) -> str:
    """The path in a file:// address: what `%` escapes is decoded, all else, also `#` and `?`, is a part of the path."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise StoreError(f"{shown(text)}: a directory is written file:///directory, not file:// of another machine")
        rest = f"/{path}"
    if not rest.startswith("/"):
        raise StoreError(f"{shown(text)}: a directory is written file:///directory, with its whole path")
    if _ESCAPE.search(rest) or re.search("%2f", rest, re.IGNORECASE):
        raise StoreError(f"{shown(text)}: has a % that begins no escape of one character; a % itself is written %25")
    try:
        path = unquote_to_bytes(rest).decode()
    except UnicodeDecodeError:
        raise StoreError(f"{shown(text)}: its escapes are not UTF-8; give the directory as a path") from None
    if (reason := _unusable(path)) is not None:
        raise StoreError(f"{shown(text)}: {reason}")
    return path


def _expanded(text: str) -> str:
    if not text.startswith("~"):
        return text
    found = os.path.expanduser(text)
    if found == text:
        user = text[1:].partition("/")[0]
        raise StoreError(f"{shown(text)}: there is no user {user!r}; a directory of this name is ./{shown(text)}")
    if not found.startswith("/") or os.environ.get("HOME") == "":
        raise StoreError(f"{shown(text)}: HOME is {os.environ.get('HOME')!r}; set it to the home directory, or give a path")
    return found


def bucket(text: str) -> tuple[str, str]:
    """The bucket and the prefix, without slashes at its ends, of scheme://bucket/prefix; the prefix is taken literally."""
    scheme, rest = split(text)
    wanted = f"a bucket is written {scheme}://bucket/prefix"
    if not rest.startswith("//"):
        raise StoreError(f"{shown(text)}: {wanted}")
    name, _, prefix = rest[2:].partition("/")
    if not name:
        raise StoreError(f"{shown(text)}: no bucket; {wanted}")
    if "@" in name:
        raise StoreError(f"{scheme}://...@...: credentials are no part of an address; set AWS_ACCESS_KEY_ID or AWS_PROFILE")
    if ":" in name:
        raise StoreError(f"{shown(text)}: {wanted}; the server is named by AWS_ENDPOINT_URL_S3")
    if not _BUCKET.fullmatch(name) or ".." in name or re.fullmatch(r"[0-9.]+", name):
        raise StoreError(
            f"{shown(text)}: no bucket is called {shown(name)!r}; names have 3 to 63 lower-case letters, digits, dots, "
            "hyphens and underscores"
        )
    prefix = prefix.removesuffix("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise StoreError(f"{shown(text)}: the prefix has an empty part, . or ..; write it without")
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise StoreError(f"{shown(text)}: the prefix is too long; give a shorter one")
    return name, prefix


def portable(text: str) -> str:
    """One spelling of an address for settings, which are equal on all machines: a relative path and `~` stay; "" is ""."""
    if not text:
        return text
    scheme, rest = split(text)
    if scheme == "file":
        return str(directory(text))
    if scheme:
        return f"{scheme}:{rest.removesuffix('/')}"
    path = PurePosixPath(text).as_posix()  # no //, no /./, no slash at the end
    path = f"/{path.lstrip('/')}" if path.startswith("/") else path
    ambiguous = text.startswith("./") and (path.startswith("~") or _SCHEME.fullmatch(path))
    return f"./{path}" if ambiguous else path
