"""D15 duplicated-worker-randomness: every loader worker draws the same random numbers.

What it looks for: several workers and a data set that holds a random generator and reads it when a sample is read,
without a worker_init_fn or with one that sets the same seed in each; or draws that two workers have in common.
Why it matters: augmentations repeat across workers and in every epoch.
Usual causes: numpy.random.default_rng made in __init__: a worker gets a copy of it in the same state; a worker_init_fn
that calls seed(42).
Known false alarms: a generator that only splits the data while the set is made is not used later, and not counted.
Fix: seed the generator in worker_init_fn from torch.initial_seed(), or draw with torch.
"""

from fieldguide.doctor.facts import listing
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    loader = history.setup.get("loader", {})
    if loader.get("workers", 0) < 2:
        return None
    if loader.get("worker_repeats", 0.0) > 0.5:
        return Sign(f"{loader['worker_repeats']:.0%} of the random draws of two workers are the same", "50 %")
    held = loader.get("generators", [])
    return (
        Sign(f"{loader['workers']} workers each get a copy of {listing(held)} in the same state", "any")
        if held
        else None
    )


RULE = Rule(
    code="D15",
    slug="duplicated-worker-randomness",
    judge=judge,
    fixes=(Fix("Seed it by worker: worker_init_fn, with torch.initial_seed() % 2**32", "seed workers"),),
    refute="The first samples of two workers are augmented differently.",
    **exact("setup"),
)
