"""Who gets which batch; no Ray here."""

import random

import pytest

from pipeline.engine.schedule import WHOLE_ATTEMPTS, Batch, Schedule, split_batches
from pipeline.sources import ImageRef

REFS = [ImageRef(f"{row}", f"{row}.png") for row in range(40)]


def schedule(count: int, size: int = 4, workers: int = 2) -> Schedule:
    made = Schedule(split_batches(REFS[:count], size))
    for worker in range(workers):
        made.add_worker(worker)
    return made


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (8, [4, 4]), (9, [4, 4, 1])])
def test_split(count: int, sizes: list[int]) -> None:
    batches = list(split_batches(REFS[:count], 4))
    assert [len(batch.refs) for batch in batches] == sizes
    assert [ref for batch in batches for ref in batch.refs] == REFS[:count]


def test_two_in_flight_and_lazy() -> None:
    taken = []

    def batches():  # type: ignore[no-untyped-def]
        for batch in split_batches(REFS, 4):
            taken.append(batch)
            yield batch

    plan = Schedule(batches())
    plan.add_worker(0)
    assert not taken
    first, second = plan.take(0), plan.take(0)
    assert first is not None
    assert second is not None
    assert plan.take(0) is None
    assert len(taken) == 2
    plan.finish(0, first)
    assert plan.take(0) is taken[2]


def test_finished() -> None:
    plan = schedule(4, workers=1)
    assert not plan.finished
    batch = plan.take(0)
    assert plan.take(0) is None
    assert batch is not None
    assert not plan.finished
    plan.finish(0, batch)
    assert plan.finished


def test_nothing_to_do() -> None:
    plan = schedule(0)
    assert plan.take(0) is None
    assert plan.finished


def test_stop_gives_out_nothing_more() -> None:
    plan = schedule(40)
    batch = plan.take(0)
    plan.stop()
    assert plan.take(0) is None
    assert plan.take(1) is None
    assert not plan.finished
    assert batch is not None
    plan.finish(0, batch)
    assert plan.finished


def test_a_lost_batch_runs_alone_as_it_was() -> None:
    plan = schedule(8, workers=2)
    first = plan.take(0)
    other = plan.take(1)
    lost = plan.lose_worker(0)
    assert lost == [first]
    assert plan.suspect(lost[0], alone=True) is None
    assert plan.take(1) is None  # busy with a batch that is no suspect
    assert other is not None
    plan.finish(1, other)
    assert plan.take(1) == Batch(tuple(REFS[:4]), deaths=1, suspect=True)
    assert plan.take(1) is None


@pytest.mark.parametrize(("final", "deaths"), [(False, WHOLE_ATTEMPTS), (True, 1)])
def test_a_batch_that_keeps_killing_is_split(final: bool, deaths: int) -> None:
    plan = schedule(4, workers=1)
    for death in range(deaths):
        batch = plan.take(death)
        assert batch is not None
        assert len(batch.refs) == 4
        (lost,) = plan.lose_worker(death)
        assert plan.suspect(lost, alone=True, final=final) is None
        plan.add_worker(death + 1)
    assert plan.take(deaths) == Batch((REFS[0],), suspect=True)
    assert plan.take(deaths) is None
    plan.add_worker(9)
    assert plan.take(9) == Batch((REFS[1],), suspect=True)


def test_a_single_image_is_given_up_after_three_deaths_alone() -> None:
    plan = schedule(1, workers=1)
    for death in range(3):
        worker = death
        batch = plan.take(worker)
        assert batch is not None
        lost = plan.lose_worker(worker)
        given_up = plan.suspect(lost[0], alone=True)
        assert (given_up is not None) == (death == 2)
        plan.add_worker(worker + 1)
    assert plan.take(3) is None
    assert plan.finished


def test_death_in_company_is_not_blamed() -> None:
    plan = schedule(2, size=1, workers=1)
    plan.take(0)
    plan.take(0)
    for batch in plan.lose_worker(0):
        assert plan.suspect(batch, alone=False) is None
        assert batch.deaths == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_image_ends_once_whatever_dies(seed: int) -> None:
    chance = random.Random(seed)
    poison = set(chance.sample(range(40), 3))
    plan = schedule(40, size=chance.choice([1, 3, 8]), workers=3)
    flight: list[tuple[int, Batch]] = []
    done: list[str] = []
    given_up: list[str] = []
    following = 3
    for _ in range(10_000):
        for worker in plan.workers:
            while (batch := plan.take(worker)) is not None:
                flight.append((worker, batch))
        if plan.finished:
            break
        worker, batch = chance.choice(flight)
        if any(int(ref.image_id) in poison for ref in batch.refs):
            lost = plan.lose_worker(worker)
            flight = [pair for pair in flight if pair[0] != worker]
            for item in lost:
                if (last := plan.suspect(item, alone=len(lost) == 1)) is not None:
                    given_up += [ref.image_id for ref in last.refs]
            plan.add_worker(following)
            following += 1
        else:
            flight.remove((worker, batch))
            plan.finish(worker, batch)
            done += [ref.image_id for ref in batch.refs]
    assert plan.finished
    assert sorted(given_up, key=int) == [str(row) for row in sorted(poison)]
    assert sorted(done + given_up, key=int) == [ref.image_id for ref in REFS]
