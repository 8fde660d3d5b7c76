"""What tests of many runs share."""

from ad.core.bench.jobs import plan


def planned(model, root, output, categories=("all",), **given):
    options = {"seeds": range(2), "output": output, "data_roots": {"mvtec": str(root)}, **given}
    return plan(["mvtec"], list(categories), [model], **options)
