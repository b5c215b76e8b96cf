"""What is measured: the cases of a run with all their parameters. Nothing here runs anything.

A case's name holds its parameters, so that figures of different runs can be compared by name alone.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "SEED", "ConsumeCase", "EndToEndCase", "Plan", "PublishCase"]

KIB = 1 << 10
#: Of producers' numbers and of every body.
SEED = 20_261_122


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishCase:
    """Requests of one publisher, with at most `window` of them unanswered."""

    name: str
    body_bytes: int
    batch_bytes: int  # of the bodies in a SEND_BATCH; 0: one plain SEND per message
    request_count: int
    warmup_count: int  # requests before the clock starts
    window: int
    sequenced: bool  # with a producer and sequences, so that a retry is stored once

    @property
    def bodies_per_request(self) -> int:
        """Messages in one request."""
        return max(1, self.batch_bytes // self.body_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumeCase:
    """Receive and ack everything that a publish case before it left in its channel."""

    name: str
    source: str  # name of the publish case
    window: int  # RECEIVEs under way
    receive_bytes: int  # of bodies in one reply, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class EndToEndCase:
    """One message at a time from a publisher to a consumer whose RECEIVE waits."""

    name: str
    body_bytes: int
    request_count: int
    warmup_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole run."""

    rounds: int
    volumes: tuple[str, ...]
    publish: tuple[PublishCase, ...]
    consume: tuple[ConsumeCase, ...]
    end_to_end: tuple[EndToEndCase, ...]
    segment_bytes: int  # of the pre-filled file that every process of the ceiling writes to
    settle: bool  # wait before every publish case until the disk has written what earlier ones left


def _batches(batch_kib: int, body_bytes: int, body: str, request_count: int, warmup_count: int, window: int) -> PublishCase:
    return PublishCase(
        name=f"publish-batch-{batch_kib}KiB-of-{body}-window-{window}",
        body_bytes=body_bytes,
        batch_bytes=batch_kib * KIB,
        request_count=request_count,
        warmup_count=warmup_count,
        window=window,
        sequenced=True,
    )


def _singles(request_count: int, warmup_count: int, window: int, *, sequenced: bool) -> PublishCase:
    return PublishCase(
        name=f"publish-one-1KiB-window-{window}",
        body_bytes=KIB,
        batch_bytes=0,
        request_count=request_count,
        warmup_count=warmup_count,
        window=window,
        sequenced=sequenced,
    )


def _consume(source: PublishCase, body: str) -> ConsumeCase:
    # Four batches of 64 KiB in a reply, and enough replies under way that the node never waits for the consumer.
    return ConsumeCase(name=f"consume-and-ack-{body}-window-8", source=source.name, window=8, receive_bytes=256 * KIB)


def _plan(scale: int, *, rounds: int, segment_bytes: int, settle: bool) -> Plan:
    """A plan with counts in proportion to `scale`, which is 1 for the smoke run."""
    # 2 MiB are under way in every batch case: enough for the machine, little enough that latency is not only queueing.
    small = _batches(64, 128, "128B", 16 * scale, 2 * scale, 32)
    medium = _batches(64, KIB, "1KiB", 16 * scale, 2 * scale, 32)
    large = _batches(256, KIB, "1KiB", 4 * scale, scale, 8)
    return Plan(
        rounds=rounds,
        volumes=("ephemeral", "persistent"),
        publish=(
            small,
            medium,
            large,
            _singles(8 * scale, 2 * scale, 1, sequenced=True),
            # A channel keeps the results of a producer's last 128 batches, so a window of 256 goes without.
            _singles(80 * scale, 8 * scale, 256, sequenced=False),
        ),
        consume=(_consume(small, "128B"), _consume(medium, "1KiB")),
        end_to_end=(
            EndToEndCase(name="end-to-end-1KiB-one-at-a-time", body_bytes=KIB, request_count=6 * scale, warmup_count=scale),
        ),
        segment_bytes=segment_bytes,
        settle=settle,
    )


#: 256 MiB of bodies per batch case; three rounds in well under 15 minutes on two cores.
FULL = _plan(256, rounds=3, segment_bytes=64 << 20, settle=True)
#: Does everything once and measures nothing worth keeping.
QUICK = _plan(1, rounds=1, segment_bytes=4 << 20, settle=False)
