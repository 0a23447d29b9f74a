"""Class names: what data sets call differently is one class, and users can say what else is."""

from __future__ import annotations

import pytest

from fusion.data.class_names import ALIASES, class_list, parse_aliases, standard_name
from fusion.errors import UserError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("person", "person"),
        ("People", "person"),
        (" pedestrian\t", "person"),
        ("Bike", "bicycle"),
        ("feright car", "freight car"),
        ("feright_car", "freight car"),
        ("Feright   Car", "freight car"),
        ("MOTOR", "motorcycle"),
        ("motorbike", "motorcycle"),
        ("Traffic  Light", "traffic light"),
        ("class7", "class7"),
        ("", ""),
    ],
)
def test_standard_names(name, expected):
    assert standard_name(name) == expected
    assert standard_name(expected) == expected


def test_the_table_needs_no_second_look():
    """Its keys are as names are compared, and what it gives is standard itself."""
    for ours, theirs in ALIASES.items():
        assert ours == " ".join(ours.lower().split())
        assert theirs not in ALIASES


def test_another_table_takes_the_place_of_the_usual_one():
    assert standard_name("People", {}) == "people"
    assert standard_name("People", {"people": "human"}) == "human"


def test_class_lists_are_sorted_and_without_doubles():
    assert class_list(["car", "People", "person", "Bike", "car"]) == ("bicycle", "car", "person")
    assert class_list(["People", "person"], {}) == ("people", "person")
    assert class_list([]) == ()


def test_what_users_say_is_the_same():
    assert parse_aliases("") == ALIASES
    found = parse_aliases(" Van = Car ,, truck=car,")
    assert found == ALIASES | {"van": "car", "truck": "car"}
    assert class_list(["VAN", "truck", "car", "people"], found) == ("car", "person")
    assert parse_aliases("people=human")["people"] == "human"
    assert "van" not in ALIASES  # the table itself is left alone


@pytest.mark.parametrize("text", ["people", "people=", "=person", "a=b,c", " = "])
def test_what_is_not_of_that_form_is_named(text):
    with pytest.raises(UserError, match="NAME=NAME"):
        parse_aliases(text)


def test_names_are_followed_to_the_end():
    assert parse_aliases("person=human")["people"] == "human"
    assert parse_aliases("a=b,b=c, c = d  e")["a"] == "d e"
    assert parse_aliases("car=car") == ALIASES
    with pytest.raises(UserError, match="circle"):
        parse_aliases("a=b,b=a")
