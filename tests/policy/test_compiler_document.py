"""docs/policy.md says what is so: its policies compile or fail as noted, its commands run, its tables are complete."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from skep_nodes.cli import main
from skep_policy import lint, opa
from skep_policy.compiler import DEPTH_MAX, CompileError, compile_policy
from skep_policy.documents import record_document
from skep_policy.manifest import DATA_ROOTS
from skep_shm import IlkRecord
from support.markdown import REPO, Block, blocks
from support.tools import need

DOCUMENT = REPO / "docs" / "policy.md"
BLOCKS = list(blocks(DOCUMENT))
TEXT = DOCUMENT.read_text()


def noted(word: str) -> list[Block]:
    found = [block for block in BLOCKS if block.note.partition(":")[0] == word]
    assert found, f"docs/policy.md has no block marked {word}"
    return found


def test_no_block_goes_unchecked() -> None:
    checked = {"name", "run", "json", "finding", "error"}
    assert not [block.place for block in BLOCKS if block.note.partition(":")[0] not in checked]


@pytest.mark.needs("opa")
def test_its_commands_run_on_its_first_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in noted("name"):
        (tmp_path / block.note.partition(": ")[2]).write_text(block.text)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    for line in noted("run")[0].text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "skep"
        assert main(arguments) == 0, line
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"policy.wasm", "manifest.json"}
    assert before == {name: (tmp_path / name).read_text() for name in before}, (
        "the document is not as `fmt` writes it"
    )


@pytest.mark.needs("opa")
@pytest.mark.parametrize("block", noted("finding"), ids=lambda block: block.note)
def test_its_examples_have_exactly_their_findings(block: Block) -> None:
    expected = block.note.partition(": ")[2].split(", ")
    made = compile_policy(block.text, opa=Path(need("opa")))
    assert sorted({each.code for each in made.warnings} or {"none"}) == sorted(expected)


@pytest.mark.needs("opa")
@pytest.mark.parametrize("block", noted("error"), ids=lambda block: block.note)
def test_its_mistakes_fail_as_it_says(block: Block) -> None:
    with pytest.raises(CompileError) as caught:
        compile_policy(block.text, opa=Path(need("opa")))
    assert caught.value.problems[0].code == block.note.partition(": ")[2]


def test_its_record_has_the_members_that_records_have() -> None:
    shown = json.loads(next(block.text for block in noted("json") if "record" in block.note))
    assert set(shown) == set(record_document(IlkRecord(bytes(16)), "")) == set(lint.RECORD)


def test_its_tables_name_all_that_there_is() -> None:
    for name in (*lint.INPUT["meta"], *lint.INPUT["routing"]):
        assert f"`{name}`" in TEXT, name
    for root in DATA_ROOTS:
        assert f"`data.{root}" in TEXT, root
    codes = re.findall(
        r'"((?:scan|no_|unc|data_unf|input_|entry|too_)\w*)"', source("lint") + source("compiler")
    )
    codes += re.findall(r'"((?:OPA|REGO|WASM)_[A-Z_]+)"', source("opa") + source("compiler"))
    assert len(set(codes)) >= 10
    assert not [code for code in codes if f"`{code}`" not in TEXT]


def source(module: str) -> str:
    return (REPO / "policies" / "skep_policy" / f"{module}.py").read_text()


def test_its_numbers_are_those_in_force() -> None:
    assert f"{opa.RUN_S_MAX:.0f} s" in TEXT
    assert f"{opa.MEMORY_BYTES_MAX >> 30} GiB" in TEXT
    assert f"more than {DEPTH_MAX} brackets" in TEXT


@pytest.mark.needs("opa")
def test_its_manifest_is_that_of_its_first_policy() -> None:
    shown = json.loads(next(block.text for block in noted("json") if "manifest" in block.note))
    made = json.loads(compile_policy(noted("name")[0].text, opa=Path(need("opa"))).manifest.to_json())
    assert shown["reads"]["router/target"] == made["reads"]["router/target"]
    assert shown["cacheable"]["router/target"] == made["cacheable"]["router/target"]
