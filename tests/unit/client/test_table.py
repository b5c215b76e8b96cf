"""The table of plain requests."""

from __future__ import annotations

from tests.unit.client.fakes import busy
from zmqbroker.client.exchange import Exchange
from zmqbroker.client.pipeline import FOREVER_NS, PATIENCE_NS
from zmqbroker.client.table import PlainRequest, RequestTable
from zmqbroker.wire.requests import AnyRequest, CloseRequest, Info, ListChannels, PeekRequest, ReceiveRequest, StatsRequest

MS = 1_000_000


def add(table: RequestTable, request_id: int, request: AnyRequest | None = None, deadline_ns: int = 10**12) -> PlainRequest:
    """A new request in the table, whose token is its id."""
    exchange = Exchange(request_id, [b""], "a request")
    plain = PlainRequest(exchange, request or CloseRequest(), request_id, deadline_ns)
    table.add(plain)
    return plain


def sent(table: RequestTable, target: str = "a", now_ns: int = 0, slots: int = 100) -> list[int]:
    """Ids of what goes to a target now."""
    return [exchange.request_id for exchange in table.send(target, now_ns, slots)]


def test_table_sends_in_order_and_no_more_than_there_are_slots() -> None:
    table = RequestTable()
    for request_id in (1, 2, 3):
        add(table, request_id)
    assert sent(table, slots=2) == [1, 2]
    assert (table.open_count, table.backlog_count, len(table)) == (2, 1, 3)
    assert sent(table) == [3]
    assert sent(table) == []


def test_table_lost_endpoint_returns_only_its_own() -> None:
    table = RequestTable()
    add(table, 1)
    assert sent(table, "a") == [1]
    add(table, 2)
    assert sent(table, "b") == [2]
    table.lost("a")
    assert table.open_count == 1
    assert sent(table, "b") == [1]


def test_table_redirect_moves_all_but_what_any_node_answers() -> None:
    table = RequestTable()
    add(table, 1)
    add(table, 2, Info())
    add(table, 3, PeekRequest("q", forward=True))
    add(table, 4, ListChannels(forward=True))
    add(table, 5, StatsRequest("q", forward=True))
    sent(table, "a")
    table.redirect("a")
    assert table.backlog_count == 0
    table.redirect("b")
    assert sent(table, "b") == [1]


def test_table_counts_receives_that_wait_apart() -> None:
    table = RequestTable()
    plain = add(table, 1, ReceiveRequest("q", wait_ms=5_000))
    add(table, 2, ReceiveRequest("q"))
    sent(table)
    assert (table.open_count, table.waiting_count) == (2, 1)
    table.remove(plain)
    assert (table.open_count, table.waiting_count) == (1, 0)


def test_table_overdue_request_is_sent_again_after_its_wait() -> None:
    table = RequestTable()
    add(table, 1, ReceiveRequest("q", wait_ms=5_000))
    add(table, 2)
    sent(table)
    assert table.review_ns == PATIENCE_NS
    assert table.review(PATIENCE_NS) == []
    assert sent(table, now_ns=PATIENCE_NS) == [2]
    table.review(PATIENCE_NS + 5_000 * MS)
    assert 1 in sent(table, now_ns=PATIENCE_NS + 5_000 * MS)


def test_table_refused_request_resumes_when_it_is_time() -> None:
    table = RequestTable()
    plain = add(table, 1)
    sent(table)
    assert plain.exchange.refused("a", busy())
    table.refused(plain, 100 * MS, 0)
    assert sent(table) == []
    assert table.review_ns == 100 * MS
    table.review(100 * MS)
    assert sent(table, now_ns=100 * MS) == [1]


def test_table_refused_request_that_need_not_wait_goes_at_once() -> None:
    table = RequestTable()
    plain = add(table, 1)
    sent(table)
    assert plain.exchange.refused("a", busy())
    table.refused(plain, 50, 50)
    assert sent(table) == [1]


def test_table_review_takes_out_what_is_late() -> None:
    table = RequestTable()
    late, kept = add(table, 1, deadline_ns=50 * MS), add(table, 2)
    assert table.review(50 * MS) == [late]
    assert table.get(1) is None
    assert table.get(2) is kept
    assert sent(table) == [2]


def test_table_review_is_not_asked_for_without_end() -> None:
    table = RequestTable()
    assert table.review_ns == FOREVER_NS
    add(table, 1, deadline_ns=51 * MS)
    table.review(50 * MS)
    assert table.review_ns == 55 * MS


def test_table_find_and_clear() -> None:
    table = RequestTable()
    plain = add(table, 1)
    sent(table)
    assert table.find(1) is plain
    assert table.find("x") is None
    assert table.clear() == [plain]
    assert (len(table), table.open_count) == (0, 0)
