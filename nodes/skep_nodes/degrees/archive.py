"""A tar that a stranger sent, judged before anything of it is used; nothing is ever unpacked to disk.

What may be in it: plain files and folders, with relative names of ordinary characters, few and small. What may not:
links, devices, sparse files, absolute names, `..`, a name twice, compression, bytes after the end. The prompt text of
an archive is that of its `.md` and `.txt` files in the order of their names, one blank line between.

Rejected: unpacking with a filter (a file system then decides what two names that differ in case are), and the archive's
own order (that of whatever file system it was made on).
"""

from __future__ import annotations

import io
import re
import tarfile

from skep.seal import MODULE_BYTES_MAX, compiled
from skep_nodes.degrees.refusal import DegreeRefusal

ENTRIES_MAX = 64
_NAME = re.compile(r"(?:\./)?[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._+-]{0,63}){0,3}/?")
_TEXTS = (".md", ".txt")


def files_of(data: bytes) -> dict[str, bytes]:
    """The plain files of a raw tar. Raises DegreeRefusal INVALID_ARCHIVE, MODULE_TOO_LARGE."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errorlevel=1) as tar:
            files = _files(tar)
            rest = data[tar.offset :]
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
        raise _invalid(f"it is no plain tar ({error})") from error
    if rest.strip(b"\0"):
        raise _invalid("a header in it is damaged, or bytes follow its end")
    if not files:
        raise _invalid("no file is in it")
    return files


def text_of(files: dict[str, bytes]) -> bytes:
    """The prompt text of these files. Raises DegreeRefusal INVALID_ARCHIVE."""
    texts = [data for name, data in sorted(files.items()) if name.endswith(_TEXTS)]
    if not texts:
        raise _invalid("no .md or .txt file is in it, so it says nothing")
    try:
        return compiled(text.decode() for text in texts).encode()
    except UnicodeDecodeError:
        raise _invalid("a .md or .txt file in it is not UTF-8") from None


def _files(tar: tarfile.TarFile) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    seen: set[str] = set()
    size = 0
    for member in tar:
        name = _judged(member)
        if name in seen or len(seen) == ENTRIES_MAX:
            raise _invalid(f"{name} is there twice" if name in seen else f"more than {ENTRIES_MAX} entries")
        seen.add(name)
        if member.isreg():
            size += member.size
            files[name] = _content(tar, member, size)
    return files


def _judged(member: tarfile.TarInfo) -> str:
    shown = repr(member.name[:80])
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _invalid(f"{shown} is neither a file nor a folder (links and devices are refused)")
    if member.isdir() and member.name in (".", "./"):
        return "."
    if not _NAME.fullmatch(member.name) or ".." in member.name:
        raise _invalid(f"{shown} is no name for a file here: relative, without .., at most four levels")
    return member.name.removeprefix("./").rstrip("/")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    if member.size < 0 or size > MODULE_BYTES_MAX:
        raise DegreeRefusal("MODULE_TOO_LARGE", f"its files have more than {MODULE_BYTES_MAX} bytes; cut it in two")
    file = tar.extractfile(member)
    data = file.read(member.size) if file is not None else b""
    if len(data) != member.size:
        raise _invalid(f"{member.name} is cut short")
    return data


def _invalid(why: str) -> DegreeRefusal:
    return DegreeRefusal("INVALID_ARCHIVE", f"the archive is refused: {why}")
