"""The cache of answers: bounded, by channel, never older than it may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.realtime.cache import CHANNELS_MAX, OVERHEAD_BYTES, AnswerCache, CacheStats


def test_cache_tells_what_is_kept_until_its_time_is_over() -> None:
    cache = AnswerCache(10, 10_000)
    assert cache.get("a", "k", 0) is None
    assert cache.put("a", "k", "answer", 6, 100)
    assert cache.get("a", "k", 99) == "answer"
    assert cache.get("b", "k", 99) is None
    assert cache.get("a", "k", 100) is None
    assert cache.stats("a") == CacheStats(hits=1, misses=2, answers=0, size_bytes=0)
    assert cache.stats("b") == CacheStats(0, 1, 0, 0)
    assert cache.stats("c") == CacheStats(0, 0, 0, 0)
    assert cache.stats() == CacheStats(1, 3, 0, 0)


def test_cache_that_is_full_forgets_what_was_used_longest_ago() -> None:
    cache = AnswerCache(2, 10_000)
    for key in ("old", "used", "new"):
        cache.put("a", key, key, 1, 100)
        cache.get("a", "old", 0)
    assert [cache.get("a", key, 0) for key in ("old", "used", "new")] == ["old", None, "new"]


def test_cache_keeps_no_more_bytes_than_it_may_and_nothing_that_is_larger() -> None:
    cache = AnswerCache(100, 2 * OVERHEAD_BYTES + 20)
    assert not cache.put("a", "large", "large", OVERHEAD_BYTES + 21, 100)
    for key in ("one", "two", "three"):
        cache.put("a", key, key, 10, 100)
    assert cache.stats().answers == 2
    assert cache.stats().size_bytes == 2 * OVERHEAD_BYTES + 20
    assert not cache.put("a", "two", "large", OVERHEAD_BYTES + 21, 100)
    assert cache.get("a", "two", 0) is None


def test_cache_forgets_a_channel_with_its_answers_when_there_are_too_many() -> None:
    cache = AnswerCache(10, 100_000)
    cache.put("first", "k", "v", 1, 100)
    for number in range(CHANNELS_MAX):
        cache.get(f"c{number}", "k", 0)
    assert cache.get("first", "k", 0) is None
    assert cache.stats("first") == CacheStats(0, 1, 0, 0)
    assert cache.stats().size_bytes == 0


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 300), st.integers(1, 20)),
        max_size=50,
    )
)
def test_cache_never_tells_another_answer_and_its_statistics_add_up(steps: list[tuple[bool, str, str, int, int]]) -> None:
    cache = AnswerCache(4, 4 * OVERHEAD_BYTES)
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for now, (puts, channel, key, size, life) in enumerate(steps):
        if puts:
            cache.put(channel, key, now, size, now + life)
            newest[channel, key] = now, now + life
        else:
            found = cache.get(channel, key, now)
            assert found is None or (found == newest[channel, key][0] and now < newest[channel, key][1])
        total, parts = cache.stats(), [cache.stats(name) for name in "ab"]
        assert total == CacheStats(*(sum(part[place] for part in parts) for place in range(4)))
        assert total.answers <= 4
        assert total.size_bytes <= 4 * OVERHEAD_BYTES
