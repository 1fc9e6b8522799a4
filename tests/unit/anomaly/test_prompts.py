# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""State words, templates and class names."""

import pytest

from anomalib_clipzoo.anomaly.prompts import (
    NORMAL_STATES,
    WINCLIP_ABNORMAL_STATES,
    WINCLIP_TEMPLATES,
    StateEnsemble,
    class_names_of,
    clean_class_name,
    compose,
)


def test_all_templates_of_a_state_come_together():
    assert compose(["{}", "{} with flaw"], ["a {}.", "the {}."], "pill") == [
        "a pill.",
        "the pill.",
        "a pill with flaw.",
        "the pill with flaw.",
    ]


def test_braces_in_a_class_name_are_only_characters():
    assert compose(["broken {}"], ["a {}."], "{} box") == ["a broken {} box."]


def test_winclip_has_147_normal_and_84_abnormal_sentences():
    assert len(compose(NORMAL_STATES, WINCLIP_TEMPLATES, "pill")) == 147
    assert len(compose(WINCLIP_ABNORMAL_STATES, WINCLIP_TEMPLATES, "pill")) == 84


@pytest.mark.parametrize(
    ("states", "templates", "message"),
    [
        (["broken"], ["a {}."], "state 'broken' must have exactly one {}"),
        (["{}"], ["{} {}"], "template '{} {}' must have exactly one {}"),
        ([], ["a {}."], "at least one state"),
        (["{}"], [], "at least one template"),
        (["{}"], "a {}.", "a list of at least one template, not 'a {}.'"),
    ],
)
def test_words_that_make_no_sentence(states, templates, message):
    with pytest.raises(ValueError, match=message):
        compose(states, templates, "pill")


def test_sentences_of_both_sides_come_from_one_ensemble():
    ensemble = StateEnsemble(["{}"], ["broken {}", "{} with flaw"], ["a {}.", "the {}."])
    normal, abnormal = ensemble.sentences("pill")
    assert normal == ["a pill.", "the pill."]
    assert abnormal == ["a broken pill.", "the broken pill.", "a pill with flaw.", "the pill with flaw."]
    assert ensemble.all_sentences("pill") == [*normal, *abnormal]
    assert ensemble.counts == [2, 4]


def test_an_unfit_state_is_said_when_the_ensemble_is_made():
    with pytest.raises(ValueError, match="state 'broken' must have exactly one"):
        StateEnsemble(["{}"], ["broken"], ["a {}."])


def test_hyphens_become_spaces_and_underscores_stay():
    assert clean_class_name("foam-pad") == "foam pad"
    assert clean_class_name("metal_nut") == "metal_nut"


@pytest.mark.parametrize("name", ["", " ", "-"])
def test_a_class_name_without_words(name):
    with pytest.raises(ValueError, match="has no words"):
        clean_class_name(name)


def test_the_users_name_comes_first_and_the_unknown_is_an_object():
    assert class_names_of(["pill", None]) == ["pill", "object"]
    assert class_names_of(["pill", None], "thing") == ["thing", "thing"]
