"""Which categories are taken for which, and which for missing."""

import pytest
from refmap.common.spelling import says_missing, spell


@pytest.mark.parametrize(
    ("found", "known"),
    [("1.0", "1"), ("1", "1.0"), ("01.", "01"), ("TRUE", "True"), ("true", "True"), (" B  cell\t", "B cell"), ("b cell", "B cell"),
     ("B\xa0cell", "B cell"), ("\uff21", "A"), ("-2.00", "-2")],
)  # fmt: skip
def test_what_programs_change_of_a_category_is_undone(found, known):
    spelled = spell([found, known, found], [known, "other"])
    assert list(spelled.values) == [known] * 3
    assert spelled.taken == {(found, known): 2} and not spelled.missing


@pytest.mark.parametrize(
    ("found", "known"), [("10", "1"), ("1.5", "1"), ("01", "1"), ("1.10", "1.1"), ("B-cell", "B cell"), ("True", "1")]
)
def test_what_may_be_another_category_stays_as_it_is(found, known):
    assert list(spell([found], [known]).values) == [found]


def test_what_could_be_several_stays_as_it_is():
    spelled = spell(["t", "T", "tREG"], ["t ", "T", "Treg"])
    assert list(spelled.values) == ["t", "T", "Treg"]


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "unknown", "Unknown ", "not  applicable", "NaT"]
)
def test_the_spellings_of_missing(text):
    assert says_missing(text)
    assert list(spell([text]).values) == [""]


@pytest.mark.parametrize("text", ["0", "Na+", "nanog", "unknown donor", "False", "-"])
def test_what_is_no_spelling_of_missing(text):
    assert not says_missing(text)


def test_what_is_known_is_not_missing():
    spelled = spell(["none", "Unknown", "NA"], ["None", "Unknown"])
    assert list(spelled.values) == ["None", "Unknown", ""]
    assert spelled.missing == {"NA": 1}


def test_it_is_said_once_with_counts():
    spelled = spell(["1.0"] * 1200 + ["nan", "NA", "2"], ["1", "2"])
    assert spelled.notes("query 'q', batch column 'b'") == [
        "query 'q', batch column 'b': 1,200 cells are taken under the model's spelling: '1.0' for '1' (1,200).",
        "query 'q', batch column 'b': 2 cells are taken for cells without a value, as they have 'nan', 'NA'.",
    ]
    assert spell(["1", "2"], ["1", "2"]).notes("") == []
