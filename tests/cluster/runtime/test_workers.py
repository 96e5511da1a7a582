"""Events of training workers that wait for the driver."""

from cluster.runtime.workers import MOST_PENDING, PendingEvents, Progressed, Skipped


class TestPendingEvents:
    def test_progress_that_the_driver_has_not_taken_is_replaced_by_later_progress(self):
        pending = PendingEvents()
        for done in range(10**5):
            pending.add(Progressed(done))
        assert pending.take() == [Progressed(10**5 - 1)]
        assert pending.take() == []

    def test_a_resumed_training_and_skipped_images_are_reported_in_their_order(self):
        events = [Progressed(5, resumed=True), Progressed(6), Skipped("a"), Progressed(7), Progressed(5, resumed=True)]
        pending = PendingEvents()
        for event in events:
            pending.add(event)
        assert pending.take() == events

    def test_there_are_never_more_than_a_fixed_number(self):
        pending = PendingEvents()
        for number in range(MOST_PENDING + 5):
            pending.add(Skipped(str(number)))
        assert pending.take() == [Skipped(str(number)) for number in range(5, MOST_PENDING + 5)]
