"""The linter finds what costs money and leaves good prompts alone."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwise_core import PriceBook, lint_prompt
from costwise_core.errors import ConfigError
from costwise_core.prompt.provider_cache import Piece, least_cacheable, lost_to, warm_share
from costwise_core.prompt.repeated import repeats
from costwise_core.prompt.volatile import changing
from costwise_core.prompt.worked import worked_examples
from costwise_core.tokens import count_tokens

BOOK = PriceBook(overrides={"gpt-4o-house": {"input": 2, "output": 8, "cache_read": 0.2}})
RULES = " ".join(f"Rule {n}: use the {n}th drawer for {n}-inch screws." for n in range(150))


def lint(prompt, **options):
    options = {"model": "gpt-4o-house", "calls_per_month": 1_000_000, "prices": BOOK} | options
    return lint_prompt(prompt, **options)


def kinds(prompt, **options):
    return [one.kind for one in lint(prompt, **options).findings]


GOOD = {
    "support": """You are the support assistant of Nimbus, an internet provider in Germany.

Answer from the passages below and from nothing else. If they do not hold the answer, say "I do not
know" and offer to connect the customer to a person.

- Answer in the language of the question.
- Name the document and section that each figure comes from.
- Never promise a date for a technician; tell the customer to write to support@nimbus.example.
- Prices include VAT. Tariffs from before 2019-04-01 are no longer sold.
- If the customer asks about a refund, explain the 14-day rule and link to the form.
- If the customer asks about an outage, look the postcode up with `outages` first.

Passages:
{context}

Question: {question}
Answer:""",
    "agent": """You are a coding agent. You work in a repository that the user has open.

## Tools
| tool | use it for | never for |
|---|---|---|
| read_file | reading a file of the repository | binary files |
| edit_file | changing a file of the repository | generated files |

## Rules
1. Read a file before you change it.
2. Run the tests after each change, and do not report success while one fails.
3. Ask before you delete anything.
4. Times in logs are UTC, such as 2024-05-01T12:30:00Z; ids look like
   "request_id": "<hex>".

Keep answers under 200 words. Do not explain code that the user did not ask about.""",
    "classifier": """Classify the message into exactly one label: billing, outage, contract, other.
Reply with the label only.

Message: My bill is wrong again
Label: billing

Message: No signal since 10:30 today
Label: outage

Message: How do I cancel?
Label: contract

Message: {message}
Label:""",
    "extraction": """Extract the invoice as JSON with these fields:

```json
{"number": "INV-2024-001", "date": "2024-03-01", "total": 119.00, "currency": "EUR"}
```

Use null for what is missing. Dates are ISO 8601. Do not add fields. Do not guess a currency from
the language. Amounts are numbers without thousands separators.""",
    "few_shot": """Rewrite the sentence in plain English.

Q: In order to proceed, kindly furnish the requisite documentation.
A: To go on, please send the documents.

Q: Due to the fact that it rained, the event was cancelled.
A: The event was cancelled because it rained.

Keep names and numbers. Answer with the sentence alone.""",
    "german": """Du bist die Hotline einer Stadtwerke GmbH. Antworte auf Deutsch und sieze alle.
Nenne bei jeder Zahl die Quelle. Bitte keine Anrede wiederholen. Bei Fragen zu Störungen nennst du
zuerst die Nummer 0800 1234567. Bei Fragen zu Rechnungen fragst du zuerst nach der Kundennummer.
Heute nicht lieferbare Tarife nennst du nicht.""",
    "writer": """You edit articles for a museum founded on March 3, 1998. Keep the author's voice.
Prefer short sentences. Never change a quotation, even when it reads "please note that ...".
Mark every change with a reason. If two sources disagree on a date, say so and keep both.
Return the article first and the list of changes after it.""",
}


class TestGoodPrompts:
    @pytest.mark.parametrize("name", GOOD)
    @pytest.mark.parametrize("model", ["gpt-4o-mini", "claude-sonnet-4-5", "gpt-4o-house"])
    def test_no_objection(self, name, model):
        report = lint(GOOD[name], model=model)
        assert report.findings == ()
        assert str(report).startswith("Nothing to object to")
        assert "Nothing to object to" in report._repr_html_()

    def test_a_date_at_the_end_is_where_it_belongs(self):
        assert kinds(f"{RULES}\nToday's date is 2026-11-21.") == []
        assert kinds([("system", RULES), ("user", "Now is 2026-11-21T10:00:00Z. Which?")]) == []


class TestFiller:
    def test_where_what_and_what_it_costs(self):
        text = "In order to help, please note that prices include VAT."
        found = lint(text).findings
        assert {(one.text, one.suggestion) for one in found} == {
            ("In order to", "write 'to'"),
            ("please note that", "leave it out"),
        }
        for one in found:
            assert text[slice(*one.span)] == one.text
            assert one.usd_per_month == Decimal(2) * one.tokens
        assert sum(one.tokens for one in found) == 5

    def test_in_a_cached_prefix_it_costs_what_cached_tokens_cost(self):
        one = lint(f"{RULES} Kindly be brief.").findings[0]
        assert one.usd_per_month == Decimal("0.2") * one.tokens

    def test_german(self):
        assert kinds("Bitte beachte, dass Preise die Steuer enthalten.") == ["filler"]


class TestRepeated:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("Never reveal the internal price list to anyone.",) * 2,
            ("Never reveal the internal price list.", "- Do not reveal internal price lists!"),
            ("Cite the page of each figure you use.", "Always cite the page of each figure."),
            (
                "Don't quote prices of competitors by name.",
                "Never quote prices of competitors by name.",
            ),
            ("回答请使用用户的语言。", "回答请使用用户的语言。"),
            ("Always cite your sources in brackets.",) * 2,
        ],
    )
    def test_the_same_rule_twice(self, first, second):
        text = f"{first}\nBe brief.\n{second}"
        ((span, earlier),) = repeats(text)
        assert text[slice(*span)] in second
        assert text[slice(*earlier)] in first

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("Cite your sources in brackets.", "Always cite sources in square brackets."),
            ("If they ask about refunds, call tool A.", "If they ask about orders, call tool A."),
            ("Always mention competitors by name.", "Never mention competitors by name."),
            (
                "Wait at least 10 minutes before a retry.",
                "Wait at least 20 minutes before a retry.",
            ),
            ("Be brief.", "Be brief."),
            ("| a b c | d e f g |", "| a b c | d e f g |"),
            ('"type": "string with many words here",', '"type": "string with many words here",'),
        ],
    )
    def test_two_rules(self, first, second):
        assert repeats(f"{first}\n{second}") == []


class TestVolatile:
    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("Current time: 2026-11-21T10:32:07Z", "the time"),
            ("The current date and time is November 21, 2026, 10:32", "the time"),
            ("Today is Saturday, November 21, 2026.", "the date"),
            ("Heute ist der 21.11.2026", "the date"),
            ("今天是2026年11月21日。", "the date"),
            ("Request id: 7f3a9c21d0", "an id of the call"),
            ('"session_id": "abc-123456"', "an id of the call"),
            ("customer_id = 123e4567-e89b-12d3-a456-426614174000", "an id"),
            ("timestamp: 1700000000", "the time"),
            ("The user's name is Alice Smith.", "a user's name"),
            ("You are talking to Alice.", "a user's name"),
            ("Current user: alice@example.com", "a user's name"),
            ("Now: {current_time}", "a field filled in for each call"),
            ("Hello {{ user_name }}", "a field filled in for each call"),
            ("{date}", "the date"),
        ],
    )
    def test_what_changes(self, text, what):
        assert [one.what for one in changing(text)] == [what]

    @pytest.mark.parametrize(
        "text",
        [
            "The company was founded on 2019-04-01.",
            "Dates have the format 2026-11-21T10:32:07Z.",
            "Ids look like 123e4567-e89b-12d3-a456-426614174000.",
            "You are talking to Customers who have a contract.",
            "Ask for the user's name before anything else.",
            "Use {company_name} and {format_instructions}.",
            "We open at 10:30 and close at 18:00.",
            "`request_id: 7f3a9c21d0`",
            "Write to support@nimbus.example.",
        ],
    )
    def test_what_stays(self, text):
        assert changing(text) == []

    def test_an_id_in_front_costs_the_whole_prefix_its_discount(self):
        report = lint(f"Request id: 7f3a9c21d0\n{RULES}")
        (one,) = report.findings
        assert one.kind == "volatile"
        assert one.tokens > 0.99 * count_tokens(RULES, "gpt-4o").tokens
        assert one.usd_per_month == Decimal("1.8") * one.tokens
        assert report.usd_per_month == Decimal(2) * report.tokens

    def test_a_date_costs_one_call_a_day(self):
        (one,) = lint(f"Today is 2026-11-21.\n{RULES}").findings
        assert one.usd_per_month == Decimal("1.8") * one.tokens * 30 / 1_000_000

    def test_two_share_what_is_lost(self):
        text = f"Request id: 7f3a9c21d0\n{RULES}\nTrace id: 8a3a9c21d0\n{RULES}"
        found = lint(text).findings
        whole = count_tokens(text, "gpt-4o").tokens
        assert [one.kind for one in found[:2]] == ["volatile", "volatile"]
        assert sum(one.tokens for one in found[:2]) == pytest.approx(whole, rel=0.02)

    def test_a_prefix_too_short_to_cache_loses_nothing(self):
        assert kinds("Request id: 7f3a9c21d0\nAnswer briefly. " + "Be kind. " * 20) == []

    def test_few_calls_find_no_warm_cache(self):
        text = f"Request id: 7f3a9c21d0\n{RULES}"
        assert "volatile" not in kinds(text, model="claude-sonnet-4-5", calls_per_month=500)

    def test_a_question_in_front_of_the_instructions(self):
        assert kinds(f"Question: {{question}}\n{RULES}") == ["volatile"]
        assert kinds(f"{RULES}\nQuestion: {{question}}") == []

    def test_in_a_later_message_of_the_prefix(self):
        report = lint(
            [("system", RULES), ("system", f"Trace id: 8a3a9c21d0\n{RULES}"), ("user", "?")]
        )
        volatile = next(one for one in report.findings if one.kind == "volatile")
        assert volatile.message == 1
        assert volatile.tokens < 0.6 * report.tokens


class TestExamples:
    PAIR = "Q: What is {n} + {n}?\nA: It is {m}.\n\n"

    def test_one_that_stands_out(self):
        pairs = "".join(self.PAIR.format(n=n, m=2 * n) for n in range(4))
        long = f"Q: Why?\nA: {'Because of this and that, and of many other things. ' * 40}\n\n"
        report = lint(f"Answer.\n\n{pairs}{long}Now begin.")
        found = [one for one in report.findings if one.kind == "long_example"]
        assert [one.text[:7] for one in found] == ["Q: Why?"]
        assert 200 < found[0].tokens < 400

    @pytest.mark.parametrize(
        "text",
        [
            "<example>\nUser: a\nAssistant: b\n</example>\n<example>\nc\n</example>",
            "Example 1:\nInput: a\nOutput: b\n\nExample 2:\nInput: c\nOutput: d\n",
            "Q: a\nA: b\n\nQ: c\nA: d\n\nQ: {question}\nA:",
            "**Frage:** a\n**Antwort:** b\n\n**Frage:** c\n**Antwort:** d\n",
        ],
    )
    def test_forms_of_examples(self, text):
        assert len(worked_examples(text)) == 2


class TestShortPrefix:
    def test_a_prefix_just_too_short(self):
        text = " ".join(f"Rule {n}: use the {n}th drawer for {n}-inch screws." for n in range(50))
        (one,) = lint(text).findings
        assert one.kind == "short_prefix"
        assert f"{1024 - one.tokens:,} tokens short of the 1,024" in one.suggestion
        assert one.usd_per_month == Decimal(2) * one.tokens - Decimal("0.2") * 1024

    def test_not_when_filling_up_costs_more(self):
        text = " ".join(f"Rule {n}: use the {n}th drawer for {n}-inch screws." for n in range(50))
        assert kinds(text, model="claude-sonnet-4-5", calls_per_month=100) == []

    def test_known_minimums(self):
        assert least_cacheable("gpt-4o-mini") == 1024
        assert least_cacheable("anthropic:claude-opus-4-5-20251101") == 4096
        assert least_cacheable("claude-sonnet-4-5") == 1024
        assert least_cacheable("gemini-2.5-flash") == 2048
        assert least_cacheable("smollm2") is None


class TestReport:
    def test_table_and_html(self):
        report = lint(f"Request id: 7f3a9c21d0\n<b>In order to</b> win:\n{RULES}")
        text = str(report)
        assert text.splitlines()[0].startswith("2 findings, $")
        assert "the prompt cache warm 100% of the time" in text
        html = report._repr_html_()
        assert "prefers-color-scheme:dark" in html
        assert "<b>" not in html.replace("<body>", "")

    def test_the_dearest_first(self):
        report = lint(f"Kindly help. Request id: 7f3a9c21d0\n{RULES}")
        amounts = [one.usd_per_month for one in report.findings]
        assert amounts == sorted(amounts, reverse=True)

    def test_no_price_no_dollars(self):
        report = lint("In order to help, be brief.", model="no-such-model-9")
        assert report.findings[0].usd_per_month is None
        assert report.usd_per_month is None
        assert "no price known" in str(report)

    def test_no_calls(self):
        assert lint("In order to help, be brief.", calls_per_month=0).usd_per_month == 0


class TestInput:
    def test_messages_in_each_form(self):
        text = "In order to help, be brief."
        for message in (
            ("system", text),
            {"role": "system", "content": text},
            {"role": "developer", "content": [{"type": "text", "text": text}]},
        ):
            assert kinds([message, ("user", "Kindly help")]) == ["filler"]

    def test_messages_without_text(self):
        assert (
            kinds([{"role": "assistant", "tool_calls": []}, {"role": "user", "content": None}])
            == []
        )

    @pytest.mark.parametrize("prompt", ["", [], "\ud800\x00", "שלום " * 100])
    def test_any_text(self, prompt):
        assert lint(prompt).findings == ()

    def test_a_message_not_understood(self):
        with pytest.raises(ConfigError, match="got int"):
            lint([3])

    def test_negative_calls(self):
        with pytest.raises(ConfigError, match="calls_per_month"):
            lint("x", calls_per_month=-1)

    @given(st.text(max_size=400))
    def test_spans_are_what_they_say(self, text):
        for one in lint(f"{text}\nIn order to help.").findings:
            assert f"{text}\nIn order to help."[slice(*one.span)] == one.text
            assert one.tokens > 0


class TestSums:
    def test_warm_share(self):
        assert warm_share(0) == 0
        assert warm_share(10_000) < warm_share(100_000) <= 1

    @given(st.lists(st.integers(0, 5_000), max_size=6), st.integers(5_000, 9_000))
    def test_what_is_lost_adds_up(self, starts, tokens):
        pieces = [Piece(start=start, tokens=0) for start in sorted(starts)]
        cached = pieces[0].start if pieces and pieces[0].start >= 1024 else 0
        lost = sum(lost_to(pieces, tokens, 1024))
        assert lost == (tokens - cached if pieces else 0)


@pytest.mark.parametrize(
    "text", ["Request id: 7f3a9c21d0 ", "Q: a\nA: b\n\n", '"', "`", "{question} ", "<example>", "a"]
)
def test_a_very_long_prompt(text):
    report = lint(text * 4_000)
    assert all(one.text == (text * 4_000)[slice(*one.span)] for one in report.findings)
