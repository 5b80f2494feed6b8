"""Guards: what keeps two look-alike questions apart, and what must not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costwise_core.cache.guards import GUARDS, GuardedThreshold, read, veto
from costwise_core.cache.guards.quantities import numbers
from costwise_core.cache.guards.reading import stem
from costwise_core.cache.guards.swap import difference
from costwise_core.errors import ConfigError
from costwise_core.types import Entry, Neighbour

# Any text at all, and texts made of what the guards look for, which random letters never hit.
TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
TELLING = st.lists(
    st.sampled_from(
        """How how many much What when Where who why is not don't no never without or my your their
        from to into than by before after first last next all only daily day per month 3 three 3rd
        1,000 1.000 $5 5% 2026-11-21 21/11/2026 7am pm 7:00 may May in March Saturday today now
        this year buy sell lock unlock pre-tax post-tax Delta United NASA card cards cord
        ICH der ist und wie 不 今天 巴黎 伦敦 ない 안 nicht pas C++ C#
        é e\u0301 ß İ ٣ ½ . ? ! : ' ’ -""".split()
    ),
    max_size=12,
).map(" ".join)
QUESTION = TEXT | TELLING

DIFFERENT = [
    # numbers, dates, times, amounts, ids
    ("numbers", "Is it free for 5 users?", "Is it free for 50 users?"),
    ("numbers", "Refunds within five days?", "Refunds within six days?"),
    ("numbers", "Refund after 5 days?", "Refund after 5 hours?"),
    ("numbers", "Wake me at 7am", "Wake me at 7 pm"),
    ("numbers", "Where is parcel AB-1234?", "Where is parcel AB-1243?"),
    ("numbers", "What changed in version 3.11.2?", "What changed in version 3.12.1?"),
    ("numbers", "Who won the cup in 2014?", "Who won the cup?"),
    ("numbers", "Open on Saturday?", "Open on Sunday?"),
    ("numbers", "Rainfall in May", "Rainfall in June"),
    ("numbers", "Fee for 100 euros", "Fee for 100 dollars"),
    ("numbers", "Was it -5 degrees?", "Was it 5 degrees?"),
    ("numbers", "Can I have a third card?", "Can I have a fourth card?"),
    # polarity
    ("negation", "Which plans include calls?", "Which plans don't include calls?"),
    ("negation", "Welche Tarife sind gültig?", "Welche Tarife sind nicht gültig?"),
    ("negation", "Puis-je annuler la commande ?", "Je ne peux pas annuler la commande ?"),
    ("negation", "这张卡可以用吗", "这张卡不可以用吗"),
    ("negation", "この券は使える", "この券は使えない"),
    ("negation", "이 카드 쓸 수 있어요", "이 카드 안 쓸 수 있어요"),
    ("opposites", "How do I lock my card?", "In the app, can I unlock the card?"),
    ("opposites", "Contribute to my pre-tax plan", "Contribute to my post-tax plan"),
    ("opposites", "Should I buy gold?", "Would you sell gold now?"),
    ("opposites", "I want a bigger limit on it", "How do I get the limit made smaller?"),
    ("opposites", "Wie kann ich das Abo aktivieren?", "Kann ich das Abo deaktivieren?"),
    # what is asked for, when, how far it reaches
    ("asks_for", "Who opened the account?", "When was the account opened?"),
    ("asks_for", "How many tickets do I get?", "How much do tickets get?"),
    ("moment", "What is the rate today?", "What was the rate yesterday?"),
    ("moment", "What is the current rate?", "What is the rate?"),
    ("moment", "Sales this year", "Sales last year"),
    ("extent", "Can I delete all my photos?", "Can I delete my photos?"),
    ("extent", "Is it only for members?", "Is it for members?"),
    ("extent", "Can I eat before the test?", "Can I eat after the test?"),
    ("extent", "What is the daily limit?", "What is the limit?"),
    # names and direction
    ("names", "Can I fly there with Delta?", "Is a flight there possible on United?"),
    ("names", "How do I reset my Gmail password?", "How do I reset my password?"),
    ("direction", "A flight from Rome to Oslo", "A flight from Oslo to Rome"),
    ("direction", "Convert a Word file to PDF", "Convert a PDF to a Word file"),
    ("direction", "Is tea cheaper than coffee?", "Is coffee cheaper than tea?"),
    ("direction", "Did Ajax beat Porto?", "Did Porto beat Ajax?"),
    # one word in one slot
    ("swap", "How do I descale the kettle?", "How do I descale the iron?"),
    ("swap", "Will a sender pay?", "Will a lender pay?"),
    ("swap", "我怎么去巴黎", "我怎么去伦敦"),
]

SAME = [
    ("What is 15% of 200?", "Calculate fifteen percent of two hundred"),
    ("Is it open on 21/11/2026?", "is it open on 21 November 2026"),
    ("Is it open on 2026-11-21?", "Is it open on Nov 21, 2026?"),
    ("Can I return it within 2 weeks?", "Can I return it within 14 days?"),
    ("Is a month enough?", "Is 1 month enough?"),
    ("Wake me at 7 pm", "Wake me at 19:00"),
    ("A house for £250k", "A house for £250,000"),
    ("Why won't my laptop connect?", "Why doesn't my laptop connect?"),
    ("Should I wait or not?", "Should I wait?"),
    ("How do I cancel my order?", "How can I cancel the order please"),
    ("How do I get a refund?", "How can I obtain a refund?"),
    ("How do I register at the school?", "At the school, how do I register?"),
    ("What's the wait time for a parcel?", "What is the waiting time for parcels?"),
    ("Is there acess at the staion?", "Is there access at the station?"),
    ("Where do I find the form?", "How do I find the form?"),
    ("What's the price of a ticket?", "How much is a ticket?"),
    ("How do I log in?", "How do I login?"),
    ("I'd like a male British accent", "I'd like a British male accent"),
    ("How do I go from Rome to Oslo?", "To Oslo from Rome, how do I go?"),
    ("When will I get my card? I've waited.", "I have waited. When will I get my card?"),
    ("Wie kann ich mein Konto schließen?", "wie kann ich das Konto schließen"),
    ("How do I use C++?", "how do i use c++"),
    ("What is the daily limit?", "What is the limit per day?"),
]


@pytest.mark.parametrize(("guard", "asked", "stored"), DIFFERENT)
def test_each_guard_says_why_and_says_it_both_ways(guard, asked, stored):
    found = veto(asked, stored)
    assert found is not None
    assert found.guard == guard
    assert found.why
    assert veto(stored, asked) is not None


@pytest.mark.parametrize(("asked", "stored"), SAME)
def test_real_rewordings_pass(asked, stored):
    assert veto(asked, stored) is None
    assert veto(stored, asked) is None


@given(QUESTION)
def test_a_question_is_never_kept_from_its_own_answer(question):
    assert veto(question, question) is None


@given(QUESTION, QUESTION)
@settings(max_examples=400)
def test_any_text_is_survived_and_order_does_not_matter(one, other):
    there, back = veto(one, other), veto(other, one)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there.guard == back.guard


@pytest.mark.parametrize("guard", GUARDS)
@given(one=QUESTION, other=QUESTION)
@settings(max_examples=60)
def test_every_guard_alone_is_symmetric(guard, one, other):
    left, right = read(one), read(other)
    assert (guard(left, right) is None) == (guard(right, left) is None)


@given(st.lists(st.sampled_from("which cards work abroad in 2026 can't über NASA ελλάδα".split())))
def test_case_space_and_punctuation_alone_never_keep_apart(words):
    plain = " ".join(words)
    assert veto(plain, plain.upper()) is None
    assert veto(plain, "  ".join(words) + " ?!") is None
    assert veto(plain, ", ".join(words)) is None


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "1,", "one ", "x ", "A-", "not ", "不", "山", "'", "é", "\ud800", "to b ", "x AB "],
)
def test_a_hundred_thousand_characters_are_judged_like_few(unit):
    long = unit * (100_000 // len(unit))
    other = long[: len(long) // 2] + " and a b something else"
    assert veto(long, f" {long} ?") is None
    assert (veto(long, other) is None) == (veto(other, long) is None)


def test_a_sentence_in_capitals_or_headline_case_names_nobody():
    assert veto("HOW DO I RESET MY PIN", "How can I reset my pin?") is None
    assert veto("How Do I Reset My Garden Gate Code", "how can i reset my garden gate code") is None


def test_german_nouns_are_not_names():
    assert (
        veto("Wo ist die nächste Filiale und wie lange hat sie auf?", "wo ist die nächste Filiale")
        is None
    )


def test_an_acronym_is_the_words_it_stands_for():
    assert veto("Do I get SSP while I am ill?", "Is statutory sick pay paid while ill?") is None


def test_an_ambiguous_date_equals_only_itself():
    assert numbers(read("due 03/04/2026"), read("due 03/04/2026")) is None
    assert numbers(read("due 03/04/2026"), read("due 3 April 2026")) is not None


def test_words_apart_and_together_are_one_word():
    left = difference(read("Is there a car park?"), read("Is there a carpark?"))
    assert left.asked == left.stored == ()


def test_words_that_look_alike_are_not_taken_for_typing_errors():
    for one, other in [("contact", "contract"), ("county", "country"), ("Austria", "Australia")]:
        assert veto(f"the {one} of it", f"the {other} of it") is not None


def test_stems_keep_apart_who_does_from_who_is_done_to():
    assert stem("employer") != stem("employee")
    assert stem("lender") != stem("lending")


def test_guards_can_be_chosen_and_added():
    def silly(asked, stored):
        return "never on Mondays"

    assert veto("one thing", "another matter", guards=()) is None
    found = veto("one thing", "another matter", guards=(silly,))
    assert found is not None
    assert (found.guard, found.why) == ("silly", "never on Mondays")


def neighbour(question, cosine):
    entry = Entry(key=question, scope="s", question=question, answer="...")
    return Neighbour(entry=entry, cosine=cosine)


def test_same_words_need_less_similarity_than_other_words():
    policy = GuardedThreshold(same_words=0.7, other_words=0.9)
    same = neighbour("How can I cancel the order?", 0.75)
    extra = neighbour("How can I cancel the gift order?", 0.85)
    assert policy.decide("how do I cancel my order", [same]).candidate is same
    assert "below 0.900" in policy.decide("how do I cancel my order", [extra]).why
    assert "below 0.700" in policy.decide("how do I cancel my order", [neighbour("x", 0.5)]).why


def test_a_vetoed_nearest_entry_does_not_hide_a_good_one():
    policy = GuardedThreshold()
    trap = neighbour("How do I uncancel my order?", 0.99)
    good = neighbour("How can I cancel my order?", 0.95)
    assert policy.decide("How do I cancel my order?", [trap, good]).candidate is good
    assert policy.decide("How do I cancel my order?", [trap]).why.startswith("opposites: ")


def test_the_floors_must_make_sense():
    with pytest.raises(ConfigError, match="same_words"):
        GuardedThreshold(same_words=0.95, other_words=0.9)
    with pytest.raises(ConfigError, match="same_words"):
        GuardedThreshold(other_words=1.5)
