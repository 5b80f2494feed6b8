"""The values of a conversation, and where it may be cut."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from costwise_core.memory.messages import Conversation, Message, Summary, borders, digest

TEXTS = st.text(max_size=4)


def said(role: str, calls: str = "", answers: str = "", name: str = "") -> Message:
    ids = tuple(calls.split())
    return Message(role=role, text=role, calls=ids, answers=answers, id=name)  # type: ignore[arg-type]


def test_cuts_lie_before_users_messages_only() -> None:
    talk = [said("user"), said("assistant"), said("user"), said("assistant"), said("user")]
    assert borders(talk) == (2, 4)
    assert borders(talk[:1]) == borders([]) == ()


def test_no_cut_between_a_call_and_its_result() -> None:
    talk = [
        said("user"),
        said("assistant", calls="a b"),
        said("tool", answers="a"),
        said("user"),  # interrupts: b has no result yet
        said("tool", answers="b"),
        said("assistant"),
        said("user"),
    ]
    assert borders(talk) == (6,)


def test_no_cut_after_a_call_that_still_waits_for_its_result() -> None:
    talk = [said("user"), said("assistant", calls="a"), said("user")]
    assert borders(talk) == ()


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.sampled_from(["", "a", "b"])),
        max_size=12,
    )
)
def test_no_cut_ever_parts_a_call_from_its_result(turns: list[tuple[str, str]]) -> None:
    talk = [
        said(
            role, calls=call if role == "assistant" else "", answers=call if role == "tool" else ""
        )
        for role, call in turns
    ]
    for cut in borders(talk):
        assert talk[cut].role == "user"
        called = {call for one in talk[:cut] for call in one.calls}
        answered_later = {one.answers for one in talk[cut:] if one.answers}
        called_later = {call for one in talk[cut:] for call in one.calls}
        assert not (called & answered_later) - called_later


@given(st.tuples(TEXTS, TEXTS, TEXTS), st.tuples(TEXTS, TEXTS, TEXTS))
def test_conversations_share_a_key_only_if_all_fields_are_equal(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    keys = [Conversation(id=a, tenant=b, user=c).key for a, b, c in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert len(keys[0]) == 32


def test_a_digest_tells_messages_apart_and_their_order() -> None:
    a, b = said("user", name="1"), said("user", name="2")
    assert len({digest([a]), digest([b]), digest([a, b]), digest([b, a]), digest([])}) == 5
    assert digest([said("user")]) != digest([said("assistant")])


def test_an_id_never_has_the_digest_of_a_content() -> None:
    plain = Message(role="user", text="a")
    forged = Message(role="assistant", text="b", id='["user", "", "a", ""]')
    assert digest([plain]) != digest([forged])


def test_a_summary_can_be_written_as_json() -> None:
    one = Summary(text="Ada flies.", folded=4, tokens=3, written=4, seen=6, saved_usd=0.001)
    assert Summary(**json.loads(json.dumps(dataclasses.asdict(one)))) == one
