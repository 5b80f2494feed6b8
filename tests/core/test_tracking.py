"""Calls reach the right bills and ledgers, with the right tags, wherever and whenever they end."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from costwise_core.errors import ConfigError, StoreUnavailableError
from costwise_core.ledger import MemoryLedger
from costwise_core.ledger_sqlite import SQLiteLedger
from costwise_core.prices import PriceBook
from costwise_core.tracking import current_tags, record_call, recorder, track
from costwise_core.types import Usage

PRICES = PriceBook(overrides={"m": {"input": 1, "output": 2}})
MILLION = Usage(input_tokens=1_000_000)


def chat(**fields):
    return record_call(**{"operation": "chat", "model": "m", "usage": MILLION, **fields})


def test_outside_a_block_nothing_happens():
    assert recorder() is None
    assert chat() is None
    assert not current_tags()


def test_a_call_is_priced_tagged_and_written_to_bill_and_ledger():
    ledger = MemoryLedger()
    with track(feature="faq", tenant="acme", ledger=ledger, prices=PRICES) as bill:
        record = chat(seconds=0.5, why="asked")
    assert record.usd == 1
    assert record.tags == (("feature", "faq"), ("tenant", "acme"))
    assert (record.seconds, record.why) == (0.5, "asked")
    assert bill.records == tuple(ledger.records()) == (record,)
    assert chat() is None, "the block is over"


def test_blocks_nest():
    outer_ledger, inner_ledger = MemoryLedger(), MemoryLedger()
    with track(feature="faq", team="ops", ledger=outer_ledger, prices=PRICES) as outer:
        chat()
        with track(feature="search", ledger=inner_ledger) as inner:
            record = chat()
            assert dict(current_tags()) == {"feature": "search", "team": "ops"}
        with track(ledger=outer_ledger):
            chat()
        chat()
    assert record.tags == (("feature", "search"), ("team", "ops"))
    assert (outer.calls, inner.calls) == (4, 1)
    assert outer_ledger.spent() == 4
    assert inner_ledger.spent() == 1
    assert recorder() is None


def test_a_block_left_by_an_error_keeps_its_bill_and_is_over():
    bills = []

    def fail():
        with track(prices=PRICES) as bill:
            bills.append(bill)
            chat()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert bills[0].usd == 1
    assert recorder() is None


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"featur": "faq"}, "Did you mean 'feature'"),
        ({"legder": "x"}, "Did you mean 'ledger'"),
        ({"colour": "x"}, "known are feature, team, user, tenant, endpoint, conversation"),
        ({"feature": 3}, "must be text, got int"),
        ({"user": None}, "must be text, got NoneType"),
    ],
)
def test_a_wrong_tag_is_an_error_where_it_is_written(tags, message):
    with pytest.raises(ConfigError, match=message), track(**tags):
        pass


def test_an_unknown_model_is_unpriced_and_never_free():
    with track() as bill:
        record = chat(model="smollm2")
        hit = chat(model="smollm2", tier="exact", usage_then=MILLION)
    assert record.usd is None
    assert "no price is known for model 'smollm2'" in record.why
    assert hit.savings[0].usd is None
    assert hit.savings[0].tokens == 1_000_000
    assert bill.unpriced == {"smollm2": 2}
    assert bill.usd == bill.saved == 0
    assert not bill.faults


def test_a_call_nobody_reported_is_unpriced_too():
    with track(prices=PRICES) as bill:
        record = chat(usage=None)
    assert record.usd is None
    assert "nobody reported" in record.why
    assert bill.unpriced == {"m": 1}
    assert bill.estimated == 1


def test_a_hit_costs_nothing_and_saves_what_the_answer_cost():
    then = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    with track(prices=PRICES) as bill:
        hit = chat(tier="near", usage_then=then, why="asked before")
        unknown = chat(tier="exact", usage_then=None)
    assert hit.usd == 0
    assert hit.usage == Usage()
    (saving,) = hit.savings
    assert (saving.stage, saving.usd, saving.tokens) == ("response_cache", 3, 2_000_000)
    assert saving.kind == "measured"
    assert unknown.savings[0].usd is None
    assert bill.savings == {"response_cache": Decimal(3)}


def test_a_saving_on_estimated_usage_is_called_modelled():
    with track(prices=PRICES):
        hit = chat(tier="near", usage_then=Usage(input_tokens=5, estimated=True))
    assert hit.savings[0].kind == "modelled"


def test_one_call_reported_twice_counts_once():
    ledger = MemoryLedger()
    with track(prices=PRICES, ledger=ledger) as bill:
        chat(id="run-1")
        chat(id="run-1")
    assert bill.usd == ledger.spent() == 1


def test_a_ledger_that_fails_never_breaks_the_call(tmp_path):
    broken = SQLiteLedger(tmp_path / "missing" / "ledger.db")
    works = MemoryLedger()
    with track(ledger=works, prices=PRICES) as outer, track(ledger=broken) as inner:
        assert chat().usd == 1
    assert works.spent() == 1
    assert outer.usd == inner.usd == 1
    assert outer.faults == inner.faults == {StoreUnavailableError.__name__: 1}
    assert "StoreUnavailableError" in repr(inner)


def test_a_price_book_that_fails_never_breaks_the_call():
    class Broken(PriceBook):
        def cost(self, *args, **kwargs):
            raise ZeroDivisionError

    with track(prices=Broken()) as bill:
        assert chat().usd is None
    assert bill.faults == {"ZeroDivisionError": 1}


# --- threads, tasks and streams -----------------------------------------------------------------


async def test_tasks_keep_their_own_tags():
    async def answer(feature):
        with track(feature=feature) as bill:
            await asyncio.sleep(0)
            chat()
            await asyncio.to_thread(chat)
            return bill

    with track(team="ops", prices=PRICES) as outer:
        bills = await asyncio.gather(*(answer(name) for name in "abc"))
    assert outer.calls == 6
    for name, bill in zip("abc", bills, strict=True):
        assert {record.tags for record in bill.records} == {(("feature", name), ("team", "ops"))}


def test_threads_that_copy_the_context_write_to_the_block_they_were_started_in():
    with track(prices=PRICES) as bill, ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            pool.submit(contextvars.copy_context().run, chat)
    assert bill.usd == bill.calls == 200


def test_the_executor_langchain_uses():
    from langchain_core.runnables.config import ContextThreadPoolExecutor

    with track(prices=PRICES) as bill, ContextThreadPoolExecutor() as pool:
        list(pool.map(lambda _: chat(), range(10)))
    assert bill.calls == 10


def stream():
    writer = recorder()
    yield "one"
    yield "two"
    writer.record(operation="chat", model="m", usage=MILLION)


def test_a_stream_read_after_the_block_still_reaches_its_bill():
    ledger = MemoryLedger()
    with track(feature="faq", prices=PRICES, ledger=ledger) as bill:
        answer = stream()
        next(answer)
    with track(feature="other", prices=PRICES) as other:
        thread = threading.Thread(target=lambda: list(answer))
        thread.start()
        thread.join()
    assert (bill.calls, other.calls) == (1, 0)
    assert ledger.spent(tags=[("feature", "faq")]) == 1


def test_a_block_inside_a_generator_that_is_closed_elsewhere():
    def answer():
        with track(prices=PRICES) as bill:
            chat()
            yield bill

    generator = answer()
    bill = contextvars.copy_context().run(next, generator)
    generator.close()  # in this context, which never entered the block
    assert bill.calls == 1
    assert recorder() is None


def test_nothing_heavy_is_imported_to_track():
    import subprocess
    import sys

    script = (
        "import sys; from costwise_core.tracking import track\n"
        "with track(feature='x') as bill: pass\n"
        "heavy = {'genai_prices', 'pydantic', 'numpy', 'tiktoken', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
