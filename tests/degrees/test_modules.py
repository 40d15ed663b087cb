"""Modules: named, bounded, never changed, and what a stranger packs into a tar."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degrees.school import School, tar_of, tar_with
from skep.seal import MODULE_BYTES_MAX
from skep_nodes.degrees import archive
from skep_nodes.degrees.modules import precedence
from skep_nodes.degrees.refusal import DegreeRefusal


def refusal(call) -> DegreeRefusal:  # type: ignore[no-untyped-def]
    with pytest.raises(DegreeRefusal) as caught:
        call()
    return caught.value


def test_a_published_version_is_what_was_sent_and_its_hash_is_that_of_the_bytes(school: School) -> None:
    module = school.publish("spanish", "1.0.0", "You speak Spanish.\n", category="language")
    assert module.hash == module.text_hash == sha256(b"You speak Spanish.\n").hexdigest()
    assert school.registrar.modules.get("spanish", "1.0.0") == (module, b"You speak Spanish.\n")
    school.restart()
    assert school.registrar.modules.get("spanish", "1.0.0") == (module, b"You speak Spanish.\n")


def test_a_version_never_changes(school: School) -> None:
    first = school.publish("spanish", text="one")
    for text in ("one", "two"):
        found = refusal(lambda text=text: school.publish("spanish", text=text))
        assert found.code == "MODULE_EXISTS"
        assert first.hash in found.detail
    assert school.registrar.modules.get("spanish", "1.0.0")[1] == b"one"


def test_versions_are_listed_in_their_order_and_an_unknown_name_has_none(school: School) -> None:
    for version in ("1.10.0", "1.2.0", "1.2.0-rc.10", "1.2.0-rc.2", "1.2.0-rc.2.x", "0.9.9", "1.2.0+b"):
        school.publish("spanish", version, version)
    ordered = ["0.9.9", "1.2.0-rc.2", "1.2.0-rc.2.x", "1.2.0-rc.10", "1.2.0", "1.2.0+b", "1.10.0"]
    assert school.registrar.modules.versions("spanish") == ordered
    assert school.registrar.modules.names() == ["spanish"]
    assert school.registrar.modules.versions("nobody") == []
    assert refusal(lambda: school.registrar.modules.get("nobody", "1.0.0")).code == "NOT_FOUND"


def test_the_checksums_can_be_checked_with_the_ordinary_tool(school: School) -> None:
    school.publish("spanish")
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=school.root / "state/modules/spanish/1.0.0",
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0


@pytest.mark.goal("G4")
def test_a_damaged_file_is_named_and_never_used(school: School) -> None:
    school.publish("spanish")
    place = school.root / "state/modules/spanish/1.0.0"
    for name in ("content", "module.json", "SHA256SUMS"):
        before = (place / name).read_bytes()
        for damage in (before[:-1], bytes((before[0] ^ 1,)) + before[1:]):
            (place / name).write_bytes(damage)
            assert refusal(lambda: school.registrar.modules.get("spanish", "1.0.0")).code == "MODULE_DAMAGED"
        (place / name).write_bytes(before)
    school.registrar.modules.get("spanish", "1.0.0")


ESCAPES = ("..", ".", "", "../etc", "a/b", "/etc/passwd", "%2e%2e", "a..b", ".hidden", "a\0b", "a\nb", "x" * 65, "ñ")


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_or_version_leads_out_of_the_folder(school: School, name: str) -> None:
    assert refusal(lambda: school.publish(name)).code == "INVALID_NAME"
    assert refusal(lambda: school.registrar.modules.get(name, "1.0.0")).code == "INVALID_NAME"
    assert refusal(lambda: school.registrar.modules.versions(name)).code == "INVALID_NAME"
    assert refusal(lambda: school.publish("spanish", name)).code == "INVALID_VERSION"
    assert refusal(lambda: school.registrar.modules.get("spanish", name)).code == "INVALID_VERSION"
    assert not (school.root / "state/modules").exists()


NO_VERSIONS = ("1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-a..b", "1.0.0/../..", "1.0.0 ", "1.0.٣")


@pytest.mark.parametrize("version", NO_VERSIONS)
def test_a_version_is_one_of_semver(school: School, version: str) -> None:
    assert refusal(lambda: school.publish("spanish", version)).code == "INVALID_VERSION"


def test_size_category_form_and_text_are_judged(school: School) -> None:
    assert refusal(lambda: school.publish(text="x" * (MODULE_BYTES_MAX + 1))).code == "MODULE_TOO_LARGE"
    school.publish("most", text="x" * MODULE_BYTES_MAX)
    long = {"description": "x" * 600}
    for options in ({"category": "magic"}, {"form": "zip"}, {"text": b"\xff"}, {"text": " \n"}, long):
        assert refusal(lambda options=options: school.publish("other", **options)).code == "INVALID_PAYLOAD"


# -- archives ---------------------------------------------------------------------------------------------------


def test_a_tar_keeps_its_bytes_and_says_its_texts_in_the_order_of_their_names(school: School) -> None:
    data = tar_of(b__md=b"second\n", a__txt=b"first", picture__bin=b"\xff\0")
    module = school.publish("pack", text=data, form="tar")
    assert module.form == "tar"
    assert module.hash == sha256(data).hexdigest()
    assert school.registrar.modules.get("pack", "1.0.0")[1] == data
    assert school.registrar.modules.text("pack", "1.0.0")[1] == b"first\n\nsecond"


def test_a_tar_of_one_file_is_that_file(school: School) -> None:
    module = school.publish("single", text=tar_of(prompt__md=b"You are brief.\n"), form="tar")
    assert (module.form, module.hash) == ("text", sha256(b"You are brief.\n").hexdigest())


def test_what_tar_itself_makes_of_a_folder_is_taken(school: School, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    (folder / "more").mkdir(parents=True)
    (folder / "one.md").write_text("one")
    (folder / "more" / "two.md").write_text("two")
    data = subprocess.run(["tar", "-C", folder, "-c", "."], capture_output=True, check=True).stdout
    school.publish("pack", text=data, form="tar")
    assert school.registrar.modules.text("pack", "1.0.0")[1] == b"two\n\none"  # more/two.md, one.md


def entry(name: str, data: bytes = b"text", **members: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for member, value in members.items():
        setattr(info, member, value)
    return info, data


GOOD = entry("good.md")
HOSTILE = {
    "path up": [entry("../evil.md")],
    "path up inside": [entry("a/../../evil.md")],
    "absolute": [entry("/etc/evil.md")],
    "symlink": [GOOD, entry("link.md", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [GOOD, entry("link.md", b"", type=tarfile.LNKTYPE, linkname="good.md")],
    "device": [GOOD, entry("dev", b"", type=tarfile.CHRTYPE)],
    "pipe": [GOOD, entry("pipe", b"", type=tarfile.FIFOTYPE)],
    "twice": [GOOD, GOOD],
    "twice, spelt otherwise": [GOOD, entry("./good.md")],
    "hidden": [GOOD, entry(".bashrc")],
    "long": [GOOD, entry("x" * 80 + ".md")],
    "deep": [GOOD, entry("a/b/c/d/e.md")],
    "control character": [GOOD, entry("a\x1b.md")],
    "too many": [entry(f"{number}.md", b"") for number in range(65)],
    "no text": [entry("a.bin"), entry("b.bin")],
    "not utf-8": [entry("a.md", b"\xff"), GOOD],
    "empty": [],
    "only a folder": [entry("folder", b"", type=tarfile.DIRTYPE)],
}


@pytest.mark.goal("G17")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(school: School, case: str) -> None:
    data = tar_with(*HOSTILE[case])
    assert refusal(lambda: school.publish("pack", text=data, form="tar")).code == "INVALID_ARCHIVE"
    assert not list(school.root.glob("state/modules/**/*"))


@pytest.mark.goal("G17")
def test_an_archive_that_is_larger_inside_than_it_may_be_is_refused() -> None:
    data = tar_with(entry("a.md", b"x" * MODULE_BYTES_MAX), entry("b.md", b"x"))
    assert refusal(lambda: archive.files_of(data)).code == "MODULE_TOO_LARGE"


def test_compressed_cut_or_damaged_archives_are_refused() -> None:
    whole = tar_of(a__md=b"x" * 600, b__md=b"y" * 600)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(GOOD[0], io.BytesIO(GOOD[1]))
    second = whole.index(b"b.md")
    damaged = whole[:second] + b"!" + whole[second + 1 :]  # its header's checksum no longer fits
    for data in (out.getvalue(), whole[:700], whole[:1100], damaged, b"", b"no tar", os.urandom(2048), whole + b"more"):
        assert refusal(lambda data=data: archive.files_of(data)).code == "INVALID_ARCHIVE"


@settings(max_examples=200)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=4))
def test_no_header_makes_the_reader_do_anything_but_answer_or_refuse(place: int, noise: bytes) -> None:
    whole = tar_of(a__md=b"text", b__md=b"more")
    try:
        code = "" if archive.files_of(whole[:place] + noise + whole[place + len(noise) :]) else "nothing"
    except DegreeRefusal as found:
        code = found.code
    assert code in ("", "INVALID_ARCHIVE", "MODULE_TOO_LARGE")


def test_the_order_of_versions_is_that_of_semver_org() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
               "1.0.0-rc.1", "1.0.0"]  # fmt: skip
    assert sorted(set(ordered), key=precedence) == ordered
