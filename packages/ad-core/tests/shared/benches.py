"""What tests of many runs share."""

import json

from ad.core.bench.executors import train_here
from ad.core.bench.jobs import outcome_of, plan


def planned(model, root, output, categories=("all",), **given):
    options = {"seeds": range(2), "output": output, "data_roots": {"mvtec": str(root)}, **given}
    return plan(["mvtec"], list(categories), [model], **options)


class HereExecutor:
    """Runs in this process, which knows the models that a test registers."""

    def __init__(self, fails=()):
        self.fails, self.ran = fails, []

    def run(self, jobs):
        for job in jobs:
            self.ran.append(job)
            broken = job.settings.seed in self.fails
            yield outcome_of(job, error="it broke" if broken else train_here(job, 1))


def data_of(page):
    """What a report shows."""
    return json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
