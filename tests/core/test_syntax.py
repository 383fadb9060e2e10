"""What newer versions of Nextflow refuse, or read otherwise than older ones, is in no script and no configuration.

Nextflow 26.04 has a strict parser. These tests know, without it, each kind of fault that it found here; where a Nextflow that can
`lint` is on PATH, tests/pipeline asks that as well.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from refmap.sheet.parameters import load_schema, properties

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "nextflow.config", *sorted((ROOT / "conf").glob("*.config"))]
SCRIPTS = [ROOT / "main.nf", *sorted((ROOT / "subworkflows").glob("*.nf")), *sorted((ROOT / "modules").rglob("*.nf"))]
SCRIPTS += [ROOT / "tests/upstream.nf"]
TYPES = {name: about["type"] for name, about in properties(load_schema(ROOT / "nextflow_schema.json")).items()}

each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)


def code(text: str) -> str:
    """A text without comments, and of its strings what stands in ${…} alone."""
    found = []
    for part in re.finditer(r"(?s)//[^\n]*|'''.*?'''|'[^'\n]*'|\"\"\".*?\"\"\"|\"(?:[^\"\\\n]|\\.)*\"|.", text):
        token = part[0]
        if token.startswith('"'):
            token = " ".join(["''", *(code(inside) for inside in re.findall(r"\$\{([^{}]*)\}", token))])
        elif token.startswith("'"):
            token = "''"
        found.append("" if token.startswith("//") else token)
    return "".join(found)


def names_outside_closures(config: str) -> set[str]:
    """What the values of a configuration refer to as it is read; its closures are called later, by tasks."""
    text = code(config)
    while opened := re.search(r"= *\{", text):
        depth, end = 1, opened.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: opened.start()] + text[end:]
    values = re.findall(r"= *(\[[^]]*\]|[^\n]*)", text)
    names = {name for value in values for name in re.findall(r"(?<![\w.'])([A-Za-z_]\w*)\b(?! *:)", value)}
    return names - {"params", "true", "false", "null", "as", "Integer"}


def shadowed(script: str) -> set[str]:
    """Parameters of closures that bear the name of a variable around them."""
    found = set()
    for block in re.split(r"^(?=workflow\b|process\b|def\b)", code(script), flags=re.MULTILINE)[1:]:
        # A variable of a workflow needs no `def`, and what it emits is none
        body = block.split("\n    emit:\n")[0]
        taken = re.search(r"\n    take:\n(.*?)\n\n", body, flags=re.DOTALL) if block.startswith("workflow") else None
        arguments = re.match(r"def \w+\(([^)]*)\)", body)
        scopes = [set(re.findall(r"(\w+)(?= *[,=]|$)", arguments[1] if arguments else ""))]
        scopes[0] |= set(re.findall(r"\w+", taken[1]) if taken else [])
        scopes[0] |= set(re.findall(r"^ +(\w+) = ", body, flags=re.MULTILINE))
        for token in re.finditer(r"\{(?: *((?:\w+, )*\w+) ->)?|\}|\bdef (?:(\w+)|\(([\w, ]+)\)) =", body):
            names = set(re.findall(r"\w+", token[1] or token[2] or token[3] or ""))
            if token[0].startswith("{"):
                found |= names & set().union(*scopes)
                scopes.append(names)
            elif token[0] == "}":
                scopes.pop()
            else:
                scopes[-1] |= names
    return found


def untyped(text: str) -> Iterator[str]:
    """Uses of parameters that are no text, where the command line's text would be taken for what it is not."""
    for name, rest in re.findall(r"(?<![\w.])params\.(\w+)\b([^\n,\]]*)", code(text)):
        if TYPES.get(name) in ("boolean", "integer", "number") and not re.match(
            r"\.toString\(\)\.toBoolean\(\)| as Integer| = ", rest
        ):
            yield name


# --- what is here ---------------------------------------------------------------------------------------------------------


@each_config
def test_a_configuration_refers_to_parameters_alone(path):
    assert names_outside_closures(path.read_text()) == set()


@each_script
def test_closures_shadow_no_variable(path):
    assert shadowed(path.read_text()) == set()


@each_script
def test_channels_are_made_by_the_name_that_stays(path):
    assert not re.search(r"\bChannel\.", code(path.read_text()))


@each_script
def test_nothing_that_the_strict_parser_lacks(path):
    text = code(path.read_text())
    assert not re.search(r"^\s*(import|class|for|while|switch|addParams)\b|\+\+|--", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", [*CONFIGS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_number_or_a_switch_is_read_by_its_type(path):
    if path.name == "params.config":
        return
    assert list(untyped(path.read_text())) == []


# --- what was seen on newer versions, which these tests must know ---------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ('process {\n    ext.image = "${params.registry}refmap/%s:${manifest.version}"\n}\n', {"manifest"}),
        ("process.queue = other\n", {"other"}),
        ("process {\n    resourceLimits = [cpus: params.max_cpus, time: limit]\n}\n", {"limit"}),
        ("// manifest.version\nprocess {\n    queue = { params.queue }\n    memory = { 2.GB * task.attempt }\n}\n", set()),
        ("process.'withLabel:a'.queue = { params.gpu ? 'a' : task.name }\naws { region = params.region }\n", set()),
    ],
)
def test_names_in_a_configuration_are_found(config, names):
    assert names_outside_closures(config) == names


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("workflow MAP {\n    mapped = A.out.map { a -> a }\n    B(mapped.map { meta, mapped -> mapped })\n}\n", {"mapped"}),
        ("workflow MAP {\n    take:\n    rows\n\n    main:\n    A(rows.map { rows -> rows })\n}\n", {"rows"}),
        ("def stamp(path) {\n    path.each { path -> path }\n}\n", {"path"}),
        (
            "workflow A {\n    B(rows.map { row ->\n        def size = 1\n        [row, size]\n    })\n    x = y.map { m, size -> m }\n}\n",
            set(),
        ),
        ("workflow A {\n    x = B.out\n}\n\nworkflow C {\n    D(y.map { x -> x })\n}\n", set()),
    ],
)
def test_shadows_are_found(script, names):
    assert shadowed(script) == names


def test_untyped_uses_are_found():
    text = "a = params.gpu ? 6.GB : 3.GB\nb = params.max_cpus\nc = params.outdir\nd = params.gpu.toString().toBoolean()\n// params.gpu\n"
    assert list(untyped(text + 'e = "--seed ${params.seed}"\n')) == ["gpu", "max_cpus", "seed"]
