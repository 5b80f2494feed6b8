"""Pruning: what nobody misses goes, and never anything that carries a fact or a decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import Message, prune
from costwise_core.errors import ConfigError

TOLD = Message(role="assistant", text="The invoice is attached.", id="told")


def after(before, text):
    """What is said of a user's message after one of the assistant."""
    talk = [Message(role="assistant", text=before), Message(role="user", text=text)]
    return prune(talk).why.get(1, "")


class TestCourtesies:
    @pytest.mark.parametrize(
        "text",
        [
            "Thanks!",
            "thank you so much :)",
            "Hi there!",
            "Good morning everyone!",
            "ok thanks bye",
            "You're welcome! Happy to help.",
            "Danke schön!",
            "Vielen Dank für die Hilfe!",
            "Merci beaucoup !",
            "Merci, c'est parfait",
            "¡Muchas gracias por tu ayuda!",
            "Buenos días",
            "谢谢！",
            "好的，谢谢你",
            "ありがとうございます。",
            "감사합니다!",
        ],
    )
    def test_go(self, text):
        assert after(TOLD.text, text) == "a courtesy"

    @pytest.mark.parametrize(
        "text",
        [
            "Thanks, 5 it is",
            "Thanks Anna",
            "No thanks",
            "Nein danke",
            "Non merci",
            "No, gracias",
            "不谢谢",
            "Thanks, but who pays?",
            "谢谢，多少钱？",
            "好的，订三张票",
            "Great, see you at noon",
            "Yes, the blue one",
            "Perfecto, confirma la reserva",
            "Alles klar, dann machen wir das so",
            "thanks, cancel it",
            "Hello world program in C",
            "Good for nothing",
            "Monday is great",
            "",
            "   ",
        ],
    )
    def test_stay_with_a_number_a_name_a_question_a_negation_or_a_wish(self, text):
        assert after(TOLD.text, text) == ""

    @pytest.mark.parametrize(
        "text", ["Yes", "ok", "Sure!", "Oui", "Sí, claro", "genau", "好的", "👍"]
    )
    def test_a_bare_yes_stays_as_it_may_settle_what_was_said(self, text):
        assert after("So you want three seats.", text) == ""

    @pytest.mark.parametrize(
        "before",
        [
            "Shall I book it?",
            "I'll book it then.",
            "要不要订票",
            "Soll ich buchen",
            "We agreed on Lyon.",
        ],
    )
    def test_thanks_stay_as_the_answer_to_a_question_a_proposal_or_a_decision(self, before):
        assert after(before, "Great, thanks!") == ""

    def test_a_yes_after_a_courtesy_goes(self):
        assert after("Good morning!", "ok") == "a courtesy"


class TestRepetition:
    def test_what_was_said_before_in_the_same_words_goes(self):
        text = "Please answer in short sentences, and leave the jargon out."
        talk = [Message(role="user", text=text), TOLD, Message(role="user", text=text.upper())]
        pruned = prune(talk)
        assert pruned.indexes == (0, 1)
        assert pruned.why == {2: "said before, in message 1"}

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (
                "The parcel went from Lyon to Paris on the train.",
                "The parcel went from Paris to Lyon on the train.",
            ),
            (
                "The parcel costs 12 euros with all the taxes.",
                "The parcel costs 13 euros with all the taxes.",
            ),
            (
                "The parcel is not insured against the damage.",
                "The parcel is now insured against the damage.",
            ),
            ("When does the parcel arrive at the station?",) * 2,
            ("next one",) * 2,
        ],
    )
    def test_what_differs_in_a_word_or_asks_or_is_short_stays(self, one, other):
        talk = [Message(role="user", text=one), TOLD, Message(role="user", text=other)]
        assert prune(talk).why == {}

    def test_the_same_words_of_another_speaker_stay(self):
        text = "The parcel left the station this very morning."
        talk = [Message(role="user", text=text), Message(role="assistant", text=text)]
        assert prune(talk).why == {}


def call(ident):
    return Message(role="assistant", text="", calls=(ident,), id=f"call {ident}")


def result(ident, text, name="search"):
    return Message(role="tool", text=text, name=name, answers=ident, id=f"result {ident}", raw="{}")


class TestToolResults:
    def test_a_long_one_keeps_its_beginning_and_says_where_the_whole_is(self):
        text = "First line of the answer.\n" + "row of numbers\n" * 200
        (short,) = prune([result("1", text)]).messages
        assert short.text.startswith("First line of the answer.\n")
        assert short.text.endswith("more characters, whole in message result 1]")
        assert len(short.text) < 450
        assert (short.answers, short.id, short.raw, short.tokens) == ("1", "result 1", "", 0)

    def test_one_without_an_id_stays_whole_as_there_is_no_way_back(self):
        long = Message(role="tool", text="row " * 900, answers="1")
        assert prune([long]).messages == (long,)

    def test_one_that_a_later_one_repeats_only_names_it(self):
        rows = "\n".join(f"order {i} of customer {i * 7} is on its way" for i in range(12))
        talk = [call("1"), result("1", rows), call("2"), result("2", rows + "\none more")]
        pruned = prune(talk)
        assert pruned.messages[1].text == "[much as in message result 2; whole in message result 1]"
        assert pruned.messages[3] == talk[3]

    def test_the_same_text_of_another_tool_is_no_repetition(self):
        rows = "\n".join(f"order {i} of customer {i * 7} is on its way" for i in range(12))
        talk = [call("1"), result("1", rows), call("2"), result("2", rows, name="other")]
        assert prune(talk).why == {}

    def test_what_is_newer_is_left_alone(self):
        long = result("1", "row " * 900)
        assert prune([call("1"), long], until=1).messages[1] is long
        with pytest.raises(ConfigError, match="until must be at least 0, got -1"):
            prune([], until=-1)


texts = st.text(max_size=50) | st.sampled_from(
    [
        "Thanks!",
        "ok",
        "好的",
        "Yes?",
        "row of it " * 80,
        "We go to the sea tomorrow, all of us, at 5.",
    ]
)
talks = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant", "tool", "system"]),
        text=texts,
        id=st.sampled_from(["", "a", "b"]),
        calls=st.sampled_from([(), ("1",), ("1", "2")]),
        answers=st.sampled_from(["", "1"]),
    ),
    max_size=10,
)


@given(talks, st.none() | st.integers(0, 11))
def test_order_pairs_and_the_given_messages_are_kept(talk, until):
    before = repr(talk)
    pruned = prune(talk, until=until)
    assert repr(talk) == before
    assert list(pruned.indexes) == sorted(set(pruned.indexes))
    gone = set(range(len(talk))) - set(pruned.indexes)
    assert gone <= set(pruned.why)
    for at, one in enumerate(talk):
        if one.calls or one.role in ("tool", "system"):
            assert at not in gone
        if until is not None and at >= until:
            assert at not in pruned.why
    for at, one in zip(pruned.indexes, pruned.messages, strict=True):
        assert one is talk[at] if at not in pruned.why else len(one.text) < len(talk[at].text)
        assert (one.role, one.id, one.calls, one.answers) == (
            talk[at].role,
            talk[at].id,
            talk[at].calls,
            talk[at].answers,
        )
