"""Facts: what of a block must not vanish, and whether a summary has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Message
from costwise_core.memory.facts import facts_of, missing


def found(source):
    """Texts by kind, sorted."""
    kinds = {}
    for fact in facts_of(source):
        kinds.setdefault(fact.kind, []).append(fact.text)
    return {kind: sorted(texts) for kind, texts in kinds.items()}


class TestWhatIsFound:
    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            ("Three seats on 5 May 2026 at 7 pm", ["5 May 2026", "7 pm", "Three seats"]),
            ("$40 or 20 % less", ["$40", "20 %"]),
            ("May 3, 2026, for two weeks", ["May 3, 2026", "two weeks"]),
            ("Am 3. März um 14 Uhr kostet es 1.250,50 €.", ["1.250,50 €", "14 Uhr", "3. März"]),
            ("Le 5 mai, il y en a douze.", ["5 mai"]),
            ("El 5 de mayo a las 19:00", ["19:00", "5 de mayo"]),
            ("订单共3件，5月3日送到。", ["3件", "5月3日"]),
            ("It costs 48k, the 3rd time.", ["3rd time", "48k"]),
            ("I may march on.", []),
        ],
    )
    def test_numbers_dates_and_amounts_with_what_they_count(self, text, numbers):
        assert set(numbers) <= set(found(text).get("number", []))
        assert numbers or "number" not in found(text)

    def test_codes_addresses_and_phone_numbers(self):
        text = "Order INV-204 for a.b@c.org, see https://x.org/a?b=1. Call +49 30 1234567, v2.1."
        assert found(text)["code"] == [
            "+49 30 1234567",
            "INV-204",
            "a.b@c.org",
            "https://x.org/a?b=1",
            "v2.1",
        ]

    def test_names_and_not_the_words_that_open_a_sentence(self):
        text = "Tomorrow I see Jo Ann Smith in New York. Then NASA called. Great, Anna! Wow, yeah."
        assert found(text)["name"] == ["Anna", "Jo Ann Smith", "NASA", "New York"]

    def test_german_nouns_are_no_names(self):
        text = "Ich kaufe das Haus mit dem Garten, und Anna Schmidt ist dabei."
        assert found(text)["name"] == ["Anna Schmidt"]

    def test_names_without_capitals(self):
        assert found("明天王先生来。")["name"] == ["王先生"]
        assert "スミス" in found("田中さんとスミスが来る。")["name"]

    @pytest.mark.parametrize(
        "text",
        [
            "We agreed on the blue one.",
            "Let's go with the blue one.",
            "Wir haben uns geeinigt.",
            "C'est confirmé.",
            "Hemos decidido esperar.",
            "我们决定买蓝色的。",
            "青いのに決定しました。",
        ],
    )
    def test_decisions(self, text):
        assert found(text)["decision"] == [text]

    def test_a_question_is_open_at_the_end_or_when_it_says_so(self):
        talk = [
            Message(role="user", text="Is it blue?"),
            Message(role="assistant", text="Yes. The size is still open."),
            Message(role="user", text="And when does it come?"),
        ]
        assert found(talk)["question"] == ["And when does it come?", "The size is still open."]

    def test_lines_of_a_shown_conversation_are_read_without_their_times(self):
        text = "Ada (2026-05-03 13:56): I need 3 rooms.\nassistant (2026-05-03 13:57): In Porto?"
        facts = [fact.text for fact in facts_of(text)]
        assert "3 rooms" in facts
        assert not any("2026" in fact or "13:5" in fact for fact in facts)

    def test_those_whose_loss_is_worst_come_first(self):
        facts = facts_of("I take 7 of AB-120 for $40 from Porto. Porto is nice, I love Porto.")
        assert [fact.text for fact in facts] == ["Porto", "AB-120", "$40", "7"]

    def test_said_twice_a_fact_is_one(self):
        assert [fact.text for fact in facts_of("$40, no more than $40.")] == ["$40"]


class TestMissing:
    FACTS = facts_of(
        "Anna Smith needs three seats at 7 pm on 5 May. Ref AB-120. We decided to take the train."
    )

    def test_a_summary_in_other_words_misses_nothing(self):
        summary = "For Ms Smith: 3 seats (ab-120), May 5th, 19:00. Decided: take train."
        assert missing(self.FACTS, summary) == ()

    def test_what_is_gone_is_named_in_order(self):
        gone = missing(self.FACTS, "Somebody wants seats.")
        assert gone == tuple(fact.text for fact in self.FACTS)
        assert gone[0] == "AB-120"

    @pytest.mark.parametrize(
        ("said", "summary"),
        [
            ("5 May", "6 May"),
            ("$40", "$45"),
            ("AB-120", "AB-12"),
            ("Porto", "Lisbon"),
            ("3件", "5件"),
        ],
    )
    def test_another_value_is_not_the_value(self, said, summary):
        assert missing(facts_of(f"It is {said} here."), f"It is {summary} here.") == (said,)

    def test_nothing_is_missing_of_nothing(self):
        assert missing((), "") == ()
        assert facts_of("") == facts_of([]) == ()


PARTS = [*"Anna May 5 $ three AB-1 ? . decided 王先生 of 3. 《 00:00 +49".split(), "\n", " "]


@given(st.text(max_size=300) | st.lists(st.sampled_from(PARTS)).map(" ".join))
def test_any_text_has_all_its_own_facts(text):
    facts = facts_of(text)
    assert len({(fact.kind, fact.text) for fact in facts}) == len(facts)
    assert all(fact.text and fact.worth > 0 for fact in facts)
    assert set(missing(facts, " ".join(text.split()))) <= {
        fact.text for fact in facts if fact.text not in " ".join(text.split())
    }
