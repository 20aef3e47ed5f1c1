"""Processes of one gloo group that run functions of a test file, started once."""

import datetime
import multiprocessing
import os
import tempfile
import traceback

import torch
import torch.distributed as dist

TIMEOUT = 30.0


class Processes:
    """``n`` processes that run a function together: ``run(f, *args)`` is the list of ``f(ranks, *args)``.

    A process whose function has failed goes on; the error is raised here, and ``in_order`` is False then.
    """

    in_order = True

    def __init__(self, n, timeout=TIMEOUT):
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = os.path.join(self._folder.name, "store")
        self._pipes, self.workers = [], []
        for rank in range(n):
            pipe, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(rank, n, store, timeout, theirs), daemon=True)
            worker.start()
            theirs.close()
            self._pipes.append(pipe)
            self.workers.append(worker)

    def start(self, function, *args):
        for pipe in self._pipes:
            pipe.send((function, args))

    def answers(self, wait=60.0):
        """What each has returned, or the text of its error; None of one that has ended."""
        found = []
        for pipe in self._pipes:
            try:
                found.append(pipe.recv() if pipe.poll(wait) else ("error", "no answer: the process hangs"))
            except EOFError:
                found.append(None)
        return found

    def run(self, function, *args):
        self.start(function, *args)
        answers = self.answers()
        errors = [answer[1] for answer in answers if answer is not None and answer[0] == "error"]
        self.in_order = not errors and None not in answers
        assert not errors, "\n".join(errors)
        return [answer[1] for answer in answers]

    def close(self):
        for worker in self.workers:
            worker.kill()
            worker.join()
        self._folder.cleanup()


def _work(rank, n, store, timeout, pipe):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=dist.FileStore(store, n), rank=rank, world_size=n, timeout=limit)
    from sklearn_kd.runtime._ranks import Ranks

    ranks = Ranks.joined(timeout=timeout)
    while True:
        function, args = pipe.recv()
        try:
            pipe.send(("value", function(ranks, *args)))
        except BaseException:
            pipe.send(("error", traceback.format_exc()))
