"""Several threads that begin at the same moment."""

import threading


def at_once(work, count=4):
    """What ``work(number)`` returns in each of so many threads, in their order."""
    start, found = threading.Barrier(count), [None] * count

    def one(number):
        start.wait()
        found[number] = work(number)

    workers = [threading.Thread(target=one, args=[number]) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found
