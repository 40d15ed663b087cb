"""What the documents say is so: snippets run, links lead somewhere, every code is explained, every goal listed."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from support import goals_doc
from support.goals import GOALS
from support.hives import HiveFolder, environment
from support.markdown import REPO, Block, anchors, blocks, links, tracked
from support.wait import eventually

README = REPO / "README.md"
DOCUMENTS = tracked("*.md")
SHELL_S = 30.0
README_LINES_MAX = 200  # a newcomer reads it first, and whole


def snippet(note: str) -> Block:
    found = [block for block in blocks(README) if block.note.startswith(note)]
    assert found, f"README.md has no block marked {note!r}"
    return found[0]


def test_the_first_example_is_the_file_it_names_and_has_twelve_lines() -> None:
    block = snippet("file:")
    path = REPO / block.note.removeprefix("file:").strip()
    assert block.text == path.read_text()
    assert len(block.text.splitlines()) <= 12


@pytest.mark.slow
def test_the_three_terminals_of_the_readme_work_as_printed(hive_folder: HiveFolder) -> None:
    *servers, last = [line for line in snippet("run: shell").text.splitlines() if line]
    env = environment(SKEP_HIVE=str(hive_folder.root))
    for number, line in enumerate(servers):
        hive_folder.start(f"terminal-{number + 1}", here(line), env=env, cwd=REPO)
    answer = eventually(lambda: answered(here(last), env), SHELL_S, last)
    assert "hello" in answer


def here(line: str) -> list[str]:
    """The command as this checkout runs it: the same program of the interpreter that runs the tests."""
    program, *rest = shlex.split(line)
    if program.endswith("/python"):
        return [sys.executable, *rest]
    assert program.endswith("/skep"), f"README runs an unknown program: {line}"
    return [sys.executable, "-c", "import sys; from skep_nodes.cli import main; sys.exit(main())", *rest]


def answered(argv: list[str], env: dict[str, str]) -> str | None:
    done = subprocess.run(
        argv, env=env, cwd=REPO, capture_output=True, text=True, timeout=SHELL_S, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = [f"{path.name}:{line}: {target}" for line, target in links(path) if not resolves(path, target)]
    assert not broken


def resolves(path: Path, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True
    name, _, anchor = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    return file.exists() and (not anchor or file.suffix != ".md" or anchor in anchors(file))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_python_block_parses_and_every_quoted_file_is_quoted_right(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python":
            ast.parse(block.text, block.place)
        if block.note.startswith("file:"):
            source = REPO / block.note.removeprefix("file:").strip()
            assert block.text.strip() in source.read_text(), f"{block.place} differs from {source.name}"


def test_every_refusal_and_every_way_a_link_ends_is_explained() -> None:
    from skep.protocol.codes import CloseReason, Reason

    text = (REPO / "docs" / "errors.md").read_text()
    names = [reason.value for reason in Reason] + [reason.name for reason in CloseReason]
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


# -- codes: each one that any package raises stands in a table ---------------------------------------------------

CODE_DOCUMENTS = ("errors", "operations", "policy", "policy-life", "degrees", "nodes", "email", "frontdesk")
PACKAGES = ("policies/skep_policy", "nodes/skep_nodes", "sdk/skep", "shm_layouts/skep_shm")
RAISED = re.compile(r"_?\w*(?:Error|Refusal|Failure|_damaged)|answer_of|of")
CODE = re.compile(r"[A-Z]{2,}(?:_[A-Z0-9]+)*")
LOWER_CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")
ENUMS = ("Code", "RegionCode", "ErrorCode")


def raised_codes() -> dict[str, str]:
    """Every code that is given to an error, or listed in a closed list of codes, and a file that does so."""
    found: dict[str, str] = {}
    for path in (path for package in PACKAGES for path in sorted((REPO / package).rglob("*.py"))):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found |= dict.fromkeys(_codes_of(node), path.name)
            elif isinstance(node, ast.ClassDef) and node.name in ENUMS:
                found |= dict.fromkeys(_members(node), path.name)
    return found


def _codes_of(call: ast.Call) -> set[str]:
    """Constants in the place of a code: the first argument, or the second where the first names a file."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if not RAISED.fullmatch(name):
        return set()
    if name == "RemoteError":
        found = [place for place in call.args[:1] if isinstance(place, ast.Constant)]
        return _texts(found, LOWER_CODE)
    return _texts([part for place in call.args[:2] for part in ast.walk(place)], CODE)


def _texts(nodes: Iterable[ast.AST], pattern: re.Pattern[str]) -> set[str]:
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and pattern.fullmatch(value)}


def _members(listed: ast.ClassDef) -> set[str]:
    return _texts([step.value for step in listed.body if isinstance(step, ast.Assign)], CODE)


def test_every_code_that_is_raised_stands_in_a_table() -> None:
    rows = [
        line.partition("|")[2].partition("|")[0]
        for name in CODE_DOCUMENTS
        for line in (REPO / "docs" / f"{name}.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    explained = {word for row in rows for word in re.findall(r"\w+", row)}
    missing = {code: where for code, where in raised_codes().items() if code not in explained}
    assert not missing


def test_codes_are_found_where_they_are_raised() -> None:
    """The search is worth something: it finds a code of each kind of error."""
    known = {"BUNDLE_OLD", "KEY_EXPOSED", "DUPLICATE_EMAIL", "SEAL_EXPIRED", "SEAL_DAMAGED", "HANDLER_TAKEN", "USAGE",
             "VERSION_CONFLICT", "TOO_LONG", "degree_invalid", "MASK_INVALID", "REGO_INVALID"}  # fmt: skip
    assert known <= raised_codes().keys()


def test_the_readme_states_the_limits_that_are_in_force() -> None:
    from skep.protocol import limits
    from skep_policy import limits as policy_limits
    from skep_policy.bundle import REGO_BYTES_MAX
    from skep_router.policies import SLOW_SHARE

    rows = {
        "one frame": f"{limits.FRAME_BYTES_MAX >> 10} KiB",
        "meta of a frame": f"{limits.META_BYTES_MAX >> 10} KiB",
        "a name": f"{limits.NAME_BYTES_MAX} bytes, at most {limits.NAME_FIELDS_MAX} dotted fields",
        "held for one consumer": f"{limits.QUEUE_BYTES_HIGH >> 20} MiB pause, "
        f"{limits.QUEUE_BYTES_MAX >> 20} MiB refuse",
        "held for one sending uid": f"{limits.UID_BYTES_MAX >> 20} MiB",
        "one policy": f"{REGO_BYTES_MAX >> 20} MiB of Rego, {policy_limits.WASM_BYTES_MAX >> 20} MiB of WASM",
        "one decision": f"{policy_limits.FUEL_MAX / 1e6:.1f} M units of fuel (about 1 ms), "
        f"{policy_limits.MEMORY_BYTES_MAX >> 20} MiB",
        "one sender's slow decisions": f"{100 / SLOW_SHARE:.1f} % of the router's time",
        "unauthenticated connections": f"{limits.UNAUTHENTICATED_PER_UID} a uid, {limits.HELLO_TIMEOUT_S:.0f} s, "
        f"{limits.HELLO_BYTES_MAX >> 10} KiB",
    }
    text = README.read_text()
    assert not [f"{what}: {limit}" for what, limit in rows.items() if f"\n| {what} | {limit} |" not in text]


def test_the_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", README.read_text()))
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets
    help_text = subprocess.run(
        here(".venv/bin/skep --help"), capture_output=True, text=True, check=True
    ).stdout
    nouns = set(re.findall(r"^  ([a-z]+) ", help_text, re.MULTILINE))
    assert set(re.findall(r"`skep ([a-z]+)", README.read_text())) <= nouns


def test_the_readme_draws_every_region_and_every_system_node() -> None:
    from skep_nodes.cli.up import SYSTEM_MODULES
    from skep_shm import RegionKind

    drawing = README.read_text().partition("```text")[2].partition("```")[0]
    names = [*SYSTEM_MODULES, *(kind.name.lower() for kind in RegionKind)]
    assert not [name for name in names if name not in drawing]


def test_the_readme_can_be_read_in_a_sitting() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


def test_the_readme_defines_every_word_of_the_vocabulary() -> None:
    words = (
        "node|hive|link|frame|RIB|FIB|next hop|admin distance|metric|longest prefix match|LSA|TTL|seqlock|generation|"
        "backpressure|high / low water mark|slow consumer|stale|drain|interlocutor, ILK|channel, ICH|tenant|front desk|"
        "policy|decision|candidate|bundle|shadow|module|degree|seal"
    )
    table = README.read_text().partition("## Words")[2]
    assert not [word for word in words.split("|") if f"\n| {word} |" not in table]


# -- docs/design.md ---------------------------------------------------------------------------------------


PURE = {"skep_shm": "shm_layouts/skep_shm", "skep.protocol": "sdk/skep/protocol", "skep": "sdk/skep",
        "skep_policy": "policies/skep_policy", "skep_router": "router/skep_router",
        "skep_nodes.identity": "nodes/skep_nodes/identity"}  # fmt: skip


@pytest.mark.parametrize("package", PURE)
def test_every_module_has_its_noun(package: str) -> None:
    """A row that begins with a package's module goes on with `.others` of the same."""
    rows = [line for line in (REPO / "docs" / "design.md").read_text().splitlines() if line.startswith("| `")]
    cells = [row.partition("|")[2].partition("|")[0] for row in rows]
    named = {name for cell in cells for name in re.findall(r"`(?:[a-z_.]*\.)?(\w+)`", cell)}
    here = [path.stem for path in (REPO / PURE[package]).glob("*.py") if path.stem != "__init__"]
    assert not [name for name in here if name not in named]


def test_every_package_of_nodes_is_named() -> None:
    text = (REPO / "docs" / "design.md").read_text().partition("## 6.")[2].partition("## 7.")[0]
    packages = [path.parent.name for path in (REPO / "nodes" / "skep_nodes").glob("*/__init__.py")]
    assert packages and not [name for name in packages if not re.search(rf"`[a-z_]*\.{name}`", text)]


def test_every_region_is_named() -> None:
    from skep_shm import RegionKind

    text = (REPO / "docs" / "design.md").read_text().partition("## 4.")[2].partition("## 5.")[0]
    assert not [kind.name for kind in RegionKind if f"`{kind.name.lower()}`" not in text]


# -- docs/reliability.md ------------------------------------------------------------------------------


def test_the_table_of_goals_names_every_goal_once() -> None:
    assert list(goals_doc.rows(goals_doc.DOCUMENT.read_text())) == list(GOALS)


def test_the_table_of_goals_names_exactly_the_files_whose_tests_carry_the_goal() -> None:
    text = goals_doc.DOCUMENT.read_text()
    assert goals_doc.written(text) == text, "docs/reliability.md is behind the tests: run `make docs`"


def test_a_goal_without_a_test_says_so() -> None:
    rows = goals_doc.rows(goals_doc.DOCUMENT.read_text())
    marked = goals_doc.marked_tests()
    assert not [goal for goal in GOALS if not marked[goal] and "not covered yet" not in rows[goal]]
