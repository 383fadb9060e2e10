"""The modules and their nf-test specs: that each has what it must, and, where an nf-test is on PATH, that the specs pass."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from runs import ENVIRONMENT, ROOT

MODULES = sorted(path for path in (ROOT / "modules").iterdir() if path.is_dir())
SPECS = [*(module / "tests/main.nf.test" for module in MODULES), ROOT / "tests/main.nf.test"]


def specified(spec: str) -> dict[str, str]:
    """The tests of a spec, by name."""
    return dict(re.findall(r"^    test\('(.*?)'\) \{\n(.*?)^    \}$", spec, flags=re.MULTILINE | re.DOTALL))


def tags(code: str) -> set[str]:
    return set(re.findall(r"^ +tag '(\w+)'$", code, flags=re.MULTILINE))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_is_one_process_of_its_name_with_a_stub_and_a_spec(module):
    code = (module / "main.nf").read_text()
    assert re.findall(r"^process (\w+) \{", code, flags=re.MULTILINE) == [module.name.upper()]
    assert len(re.findall(r"^    stub:$", code, flags=re.MULTILINE)) == 1

    spec = (module / "tests/main.nf.test").read_text()
    assert re.findall(r"^    (name|script|process) '(.*)'$", spec, flags=re.MULTILINE) == [
        ("name", module.name.upper()), ("script", "../main.nf"), ("process", module.name.upper()),
    ]  # fmt: skip
    # Its stub and its command are both run
    tests = specified(spec).values()
    assert {frozenset(tags(test) & {"stub", "real"}) for test in tests} == {frozenset({"stub"}), frozenset({"real"})}
    assert all(("options '-stub-run'" in test) == ("stub" in tags(test)) for test in tests)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_spec_gives_its_process_as_many_inputs_as_it_has(module):
    inputs = re.search(r"\n    input:\n(.*?)\n\n", (module / "main.nf").read_text(), flags=re.DOTALL)[1].splitlines()
    for name, test in specified((module / "tests/main.nf.test").read_text()).items():
        given = re.search(r"\n            process \{\n(.*?)\n            \}", test, flags=re.DOTALL)[1]
        numbers = re.findall(r"^ +input\[(\d+)\] =", given, flags=re.MULTILINE)
        assert numbers == [str(number) for number in range(len(inputs))], name


def values(item: object) -> Iterator[object]:
    match item:
        case dict():
            for value in item.values():
                yield from values(value)
        case list():
            for value in item:
                yield from values(value)
        case _:
            yield item


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.parents[1].name)
def test_a_snapshot_is_of_names_and_types_and_is_asked_for(spec):
    path = spec.with_suffix(".test.snap")
    snapshots = json.loads(path.read_text()) if path.exists() else {}
    asked = re.findall(r"\.match\('(.*?)'\)", spec.read_text())
    assert sorted(asked) == sorted(snapshots)
    for snapshot in snapshots.values():
        assert all(isinstance(value, str) and not re.search(r"^/|[0-9a-f]{32}", value) for value in values(snapshot["content"]))


WORKFLOWS = sorted((ROOT / "subworkflows").glob("*.nf"))
FUNCTIONS = sorted((ROOT / "modules").glob("*.nf"))


def test_what_is_included_is_there_and_used_and_all_modules_are():
    included = {}
    for path in (ROOT / "main.nf", *WORKFLOWS, *FUNCTIONS, ROOT / "tests/upstream.nf"):
        text = path.read_text()
        for names, source in re.findall(r"^include \{(.*?)\} from '(.*)'$", text, flags=re.MULTILINE):
            there = (path.parent / source).resolve()
            there = there / "main.nf" if there.is_dir() else there.with_suffix(".nf")
            defined = re.findall(r"^(?:process|workflow|def) (\w+)", there.read_text(), flags=re.MULTILINE)
            for name in (name.strip() for name in names.split(";")):
                original, _, alias = name.partition(" as ")
                assert original in defined, f"{path.name}: {original}"
                assert re.search(rf"\b{alias or original}\(", text), f"{path.name}: {name} is not used"
            included.setdefault(path.name, set()).add(there)
    below = set().union(*(included[path.name] for path in WORKFLOWS))
    assert {path for path in below if path.name == "main.nf"} == {module / "main.nf" for module in MODULES}
    assert set(WORKFLOWS) <= below | included["main.nf"]
    assert set(FUNCTIONS) <= below | included["main.nf"]


def test_main_is_a_page_and_so_are_its_parts():
    """At most 80 lines of what follows what; each part can be read without scrolling far."""
    assert len((ROOT / "main.nf").read_text().splitlines()) <= 80
    assert max(len(path.read_text().splitlines()) for path in WORKFLOWS) <= 120


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nf-test"), reason="no nf-test on PATH: the specs beside the modules are not run")
def test_the_specs_pass():
    """With --ci, a snapshot that is missing is a failure and is not made anew."""
    ran = subprocess.run(["nf-test", "test", "--ci"], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=3000)
    tests = sum(len(specified(spec.read_text())) for spec in SPECS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Executed {tests} tests" in ran.stdout
